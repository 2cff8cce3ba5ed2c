"""The configuration of a run. The descriptions of the fields are its documentation."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from linchain import methods, tasks
from linchain.errors import unknown_name
from linchain.evaluation.quantization import Dtype, Quantization, check_method
from linchain.paths import user_path
from linchain.tasks import protocols
from linchain.tasks.answers import Extraction
from linchain.tasks.records import TASK
from linchain.tasks.task import Metric, Scorer

# Every column that some data format reads (see linchain.tasks).
COLUMNS = (
    "text", "instruction", "input", "output", "prompt", "completion", "answer", "messages", "conversations", "sentence1",
    "sentence2", "label", "id",
)  # fmt: skip

Files = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def named_tasks(data: Any) -> list[tasks.Task]:
    """The tasks that a section `data`, checked or not, names as `task:<name>` in its sources."""
    splits = [data.get(split) for split in ("train", "validation", "test")] if isinstance(data, dict) else []
    sources = [source for split in splits for source in (split if isinstance(split, list) else [split])]
    found = [source.removeprefix(TASK) for source in sources if isinstance(source, str) and source.startswith(TASK)]
    return [tasks.get(name) for name in found if name in tasks.names()]


class NamedSection(BaseModel):
    """A section that may be written as its name alone: `model: starter` for `model: {name: starter}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ModelConfig(NamedSection, Section):
    name: str = Field(description="Folder or Hub name of the base model, or `starter` for the packaged one.")
    dtype: Dtype = Field(default="auto", description="Type of the frozen weights; `auto` is what the checkpoint holds.")
    quantization: Quantization | None = Field(
        default=None,
        description="Store the frozen weights in 4 or 8 bits, as QLoRA does: `nf4` and `int8` by bitsandbytes, `torchao-int8` "
        "by torchao (docs/quantization.md). `dtype` is then the type of the rest and of nf4's products.",
    )
    chat_template: str | None = Field(
        default=None, description="Jinja file to use as chat template, for tokenizers without one (format `messages`)."
    )


class MethodConfig(NamedSection):
    """`name`, and the method's own options beside it, which the method checks itself."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(default="linchain", description="A method of `linchain methods`.")

    @property
    def options(self) -> dict[str, Any]:
        """What was given beside the name."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """Each source is `task:<name>` (docs/tasks.md), a file (JSON, JSONL, CSV, Parquet), `starter:<kind>`, a Hub name
    `NAME[:CONFIG][:SPLIT]`, or a list of them. Relative paths start at the working directory."""

    train: Files | None = Field(default=None, description="Training data.")
    validation: Files | None = Field(
        default=None, description="Data whose loss is taken every `training.eval_steps` steps."
    )
    test: Files | None = Field(
        default=None, description="Data that the model is evaluated on before and after training."
    )
    folder: str | None = Field(
        default=None,
        description="Where the data of tasks lie: a folder in the JSONL layout of docs/tasks.md or a checkout of "
        "LLM-Adapters. Without it they come from the Hub.",
    )
    format: Literal["auto", "text", "instruction", "prompt_completion", "messages", "sharegpt", "sentence_pair"] = (
        Field(default="auto", description="Shape of the records; `auto` goes by the columns of the first one.")
    )
    columns: dict[str, str] = Field(
        default={}, description="Where the data call a column otherwise: `{instruction: question, output: response}`."
    )
    max_length: int | None = Field(
        default=None, gt=1, description="Cut examples to so many tokens. Default: the model's context, at most 1024."
    )
    train_on_prompt: bool = Field(
        default=False, description="Put the loss on the prompt too, as the papers' code does, not on the answer only."
    )
    limit: int | None = Field(default=None, gt=0, description="Use only the first so many training records.")
    validation_size: int | None = Field(
        default=None,
        gt=0,
        description="Without `validation`: hold so many training records back for it (drawn with seed 42).",
    )

    @field_validator("train", "validation", "test")
    @classmethod
    def _known_tasks(cls, sources: list[str] | None) -> list[str] | None:
        for source in sources or ():
            if source.startswith(TASK):
                tasks.get(source.removeprefix(TASK))
        return sources

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in COLUMNS:
                raise unknown_name("column", name, COLUMNS)
        return columns

    @model_validator(mode="after")
    def _sources_agree(self) -> DataConfig:
        if self.validation and self.validation_size:
            raise ValueError("give either data.validation or data.validation_size, not both")
        for split, sources in (("validation", self.validation), ("test", self.test)):
            if twice := [source for source, count in Counter(sources).items() if count > 1]:
                raise ValueError(f"data.{split} names {', '.join(twice)} more than once: its records would count twice")
        return self


class TrainingConfig(Section):
    epochs: float = Field(default=3.0, gt=0, description="Passes over the training data; `max_steps` overrides it.")
    max_steps: int | None = Field(default=None, gt=0, description="Number of optimizer steps.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(default=8, gt=0, description="Examples per device and forward pass.")
    gradient_accumulation_steps: int = Field(default=1, gt=0, description="Forward passes per optimizer step.")
    warmup_steps: float = Field(default=0, ge=0, description="Steps of linear warm-up; below 1, a share of all steps.")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        default="linear", description="Shape of the learning rate after the warm-up."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(default=1.0, ge=0, description="Gradient clipping; 0 turns it off.")
    seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of the adapter's start, the order of data and dropout."
    )
    init_seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="Seed of the adapter's start (and of a new head) alone."
    )
    data_seed: int | None = Field(default=None, ge=0, lt=2**32, description="Seed of the order of the data alone.")
    dropout_seed: int | None = Field(default=None, ge=0, lt=2**32, description="Seed of dropout alone.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Autocast type of the training step; float32 is no autocast."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward: less memory."
    )
    logging_steps: int = Field(default=10, gt=0, description="Write the loss to metrics.jsonl every so many steps.")
    save_steps: int = Field(
        default=200, gt=0, description="Write a checkpoint every so many steps; the last two are kept."
    )
    eval_steps: int = Field(default=200, gt=0, description="Take the validation loss every so many steps.")
    diagnostics_steps: int | None = Field(
        default=None,
        gt=0,
        description="Write ranks, factors and gradients of the update to diagnostics.jsonl at the start and every so many "
        "steps. Default: not at all.",
    )
    keep_best: bool = Field(
        default=False,
        description="Keep the checkpoint with the lowest validation loss, not the last (save_steps = eval_steps).",
    )

    @property
    def seeds(self) -> dict[str, int]:
        """What is drawn with which seed: `init`, `data`, `dropout`; `seed` where no seed of its own is given."""
        own = {"init": self.init_seed, "data": self.data_seed, "dropout": self.dropout_seed}
        return {part: self.seed if value is None else value for part, value in own.items()}


class EvaluationConfig(Section):
    metric: Literal["auto", Metric] = Field(
        default="auto",
        description="`auto`: that of each task in the data; else exact_match for instructions that have an answer column, "
        "accuracy for classes, pearson (and spearman) for a regression, loss for the rest.",
    )
    scorer: Scorer = Field(
        default="generate",
        description="How answers in text are found: generated and read out of the text (exact_match), or, of the answers that "
        "an instruction lists at its end, the one that the model finds most probable (accuracy).",
    )
    extraction: Extraction = Field(
        default="standard",
        description="How an answer is read out of a generated text (exact_match): our rules, those of the papers' code, or "
        "numbers and expressions by their value (extra `math`). docs/tasks.md has the rules.",
    )
    max_new_tokens: int | None = Field(
        default=None, gt=0, description="Longest generated answer (exact_match). Default: the task's own, else 256."
    )
    num_beams: int = Field(default=1, gt=0, description="Beams of the search (exact_match); 1 is greedy.")
    batch_size: int = Field(default=32, gt=0, description="Examples per forward pass.")
    limit: int | None = Field(
        default=None,
        gt=0,
        description="Use only the first so many records of `data.validation` and `data.test`, of each task by itself (not of "
        "`data.validation_size`).",
    )
    baseline: bool = Field(default=True, description="Also evaluate on the test data before training.")
    score_validation: bool = Field(
        default=False, description="Also score the validation data by the metric after training, not by its loss alone."
    )


class RunConfig(Section):
    task: Literal["causal_lm", "sequence_classification"] = Field(
        default="causal_lm",
        description="What the model is loaded as; tasks named in `data` decide it where it is not given. A regression is a "
        "sequence classification too.",
    )
    protocol: str | None = Field(
        default=None,
        description="Defaults for other keys: "
        + ", ".join(f"`{name}`" for name in protocols.PROTOCOLS)
        + " (docs/tasks.md). "
        "What is given here or on the command line wins over them.",
    )
    model: ModelConfig
    method: MethodConfig = MethodConfig(name="linchain")
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: str = Field(description="Run folder. Default: `runs/<name of the configuration file>`.")

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_below(cls, values: Any) -> Any:
        """`task`, where it is not given, is what the tasks named in `data` are loaded as; then the protocol's defaults."""
        if not isinstance(values, dict):
            return values
        kinds = [one.kind for one in named_tasks(values.get("data"))]
        values = {"task": kinds[0], **values} if kinds else values
        protocol = values.get("protocol")
        known = isinstance(protocol, str) and protocol in protocols.PROTOCOLS
        return protocols.with_defaults(values, protocol) if known else values

    @field_validator("output")
    @classmethod
    def _is_path(cls, output: str) -> str:
        user_path(output)
        return output

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, protocol: str | None) -> str | None:
        return None if protocol is None else protocols.get(protocol).name

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        if self.model.quantization and self.method.name in methods.names():  # an unknown name has its own message
            quantized = f"model.quantization {self.model.quantization}"
            check_method(quantized, self.method.name, self.method.options)
        if self.training.keep_best:
            if not (self.data.validation or self.data.validation_size):
                raise ValueError("training.keep_best needs data.validation or data.validation_size")
            if self.training.save_steps != self.training.eval_steps:
                raise ValueError(
                    "training.keep_best needs save_steps = eval_steps, found "
                    f"{self.training.save_steps} and {self.training.eval_steps}"
                )
        self._check_metric()
        return self

    def _check_metric(self) -> None:
        metric, scorer = self.evaluation.metric, self.evaluation.scorer
        answers = {"exact_match"} if scorer == "generate" else {"accuracy"}
        text = self.task == "causal_lm"
        if metric not in {"auto", "loss"} | (answers if text else {"accuracy", "matthews", "pearson"}):
            beside = f" and evaluation.scorer {scorer}" if text and metric in ("exact_match", "accuracy") else ""
            raise ValueError(f"evaluation.metric {metric} does not go with task {self.task}{beside}")
        if scorer == "loglikelihood" and not text:
            raise ValueError(f"evaluation.scorer loglikelihood does not go with task {self.task}")
        if scorer == "loglikelihood" and metric == "loss":
            raise ValueError(
                "evaluation.scorer loglikelihood chooses answers; evaluation.metric loss is taken without it"
            )
