"""Evaluates what a run, an adapter folder or a model name stands for, with a run's settings where there is a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from linchain import methods
from linchain.errors import LinchainError
from linchain.evaluation.data import EvaluationData, Scoring, check_context, prepare
from linchain.evaluation.models import (
    ADAPTER_CONFIG,
    adapter_base,
    adapter_labels,
    adapter_task,
    context_length,
    load_adapter,
    load_model,
    load_model_config,
    load_tokenizer,
    model_labels,
    model_task,
)
from linchain.evaluation.predict import check_finite, predict
from linchain.evaluation.progress import evaluation_progress
from linchain.evaluation.quantization import adapter_quantization, stored_quantization
from linchain.evaluation.scores import Score, score
from linchain.files import check_writable, write_jsonl
from linchain.paths import user_path
from linchain.tasks.records import rename_columns
from linchain.tasks.sentence_pair import Labels
from linchain.tasks.sources import read_scored
from linchain.training.config import RunConfig
from linchain.training.load_config import build_config, load_config
from linchain.training.prepare import choose_max_length
from linchain.training.run_folder import RunFolder

# What a run's own test data were scored by, which need not fit others.
OF_ITS_DATA = ("metric", "scorer", "limit", "max_new_tokens")
LONGEST_NAME = 200  # of a predictions file, in letters: file systems take 255 bytes


@dataclass(frozen=True)
class Question:
    """What `linchain evaluate` was asked: `options` are dotted configuration keys that override the run's."""

    target: str
    base: str | None
    options: dict[str, Any]
    output: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Answer:
    scores: list[Score]
    predictions: Path
    data: str


@dataclass(frozen=True)
class Target:
    """What a question's target stands for: a base model, the adapter on it (if any), and the settings that the question's
    options are laid over."""

    base: str
    adapter: Path | None
    settings: dict[str, Any]
    predictions: Path


def evaluate_target(question: Question, console: Console | None = None) -> Answer:
    """Scores the target, and writes one row of predictions a record.

    Raises LinchainError, before any weights are loaded, for bad data, options or targets.
    """
    console = console or Console(quiet=True)
    target = resolve(question)
    config = settings_for(target, question)
    if not config.data.test:
        raise LinchainError("--data: required, since the target is no run with data.test")
    tokenizer = target_tokenizer(target, config)
    data = _prepare(config, target, tokenizer)
    source = ", ".join(config.data.test)
    names = [Path(source.replace(":", "-")).stem for source in config.data.test]
    file = predictions_file(question, target, names, _scored_by(config, data))
    model = load_target(target, config, tokenizer, data.labels)
    check_finite(model, data, question.target)
    rows = predicted(config, model, tokenizer, data, "evaluating", console)
    write_jsonl(file, rows)
    return Answer(score(data.metric, rows), file, source)


def predicted(
    config: RunConfig, model: Any, tokenizer: Any, data: EvaluationData, title: str, console: Console
) -> list[dict[str, Any]]:
    """The prediction rows of `data`, by the settings of `config.evaluation`, with a progress bar called `title`."""
    asked = config.evaluation
    with evaluation_progress(console, title, len(data.records)) as advance:
        return predict(
            model,
            tokenizer,
            data,
            batch_size=asked.batch_size,
            max_new_tokens=asked.max_new_tokens,
            num_beams=asked.num_beams,
            progress=advance,
        )


def resolve(question: Question) -> Target:
    """What the question is about; LinchainError where that is nothing that can be evaluated."""
    path = user_path(question.target)
    run = RunFolder(path)
    if run.config.is_file():
        config = load_config(run.config)
        if (run.model / "config.json").is_file():
            return _whole_model(run, config, question)
        if not (run.adapter / ADAPTER_CONFIG).is_file():
            if run.state == "complete":
                raise LinchainError(
                    f"the run in {path} is done and keeps no weights: of a comparison, only the final runs (seed-…) do"
                )
            missing = "adapter" if methods.get(config.method.name).config else "model"
            raise LinchainError(f"the run in {path} has no {missing} yet ({run.progress()}); continue it with --resume")
        base, settings = question.base or config.model.name, config.model_dump(mode="json")
        return Target(base, run.adapter, settings | {"model": _stored_as(base, settings["model"])}, run.predictions)
    here = Path("predictions")
    if (path / ADAPTER_CONFIG).is_file():
        base, task = question.base or adapter_base(path), adapter_task(path)
        return Target(base, path, {"task": task, "model": _stored_as(base, adapter_quantization(path))}, here)
    if question.base:
        raise LinchainError(f"--model {question.base}: {question.target} is no adapter and no run, so it has no base")
    return Target(question.target, None, {"task": model_task(load_model_config(question.target))}, here)


def _stored_as(base: str, trained: dict[str, Any]) -> dict[str, Any]:
    """The keys of `model` that an adapter was `trained` with, but for a quantisation that the checkpoint `base` has already."""
    if not trained.get("quantization") or stored_quantization(load_model_config(base)) is None:
        return trained
    return trained | {"quantization": None}


def _whole_model(run: RunFolder, config: RunConfig, question: Question) -> Target:
    """The model that a run of full fine-tuning left, with the run's settings but those of the model it started from."""
    if question.base:
        raise LinchainError(f"--model {question.base}: the run in {run.path} trained all weights, it has no base model")
    settings = config.model_dump(mode="json")
    settings["model"] = {"chat_template": config.model.chat_template}
    return Target(str(run.model), None, settings, run.predictions)


def settings_for(target: Target, question: Question) -> RunConfig:
    """The run's settings (or the defaults) with the options laid over them."""
    values = {section: dict(value) if isinstance(value, dict) else value for section, value in target.settings.items()}
    values.setdefault("model", {})["name"] = target.base
    values.setdefault("data", {})
    values["output"] = question.target
    if "data.test" in question.options:
        for name in OF_ITS_DATA:
            values.get("evaluation", {}).pop(name, None)
    for key, value in question.options.items():
        *section, name = key.split(".")
        (values.setdefault(section[0], {}) if section else values)[name] = value
    return build_config(values, "evaluate")


def _prepare(config: RunConfig, target: Target, tokenizer: Any) -> EvaluationData:
    assert config.data.test
    asked = config.data
    records = read_scored(config.data.test, "test", config.evaluation.limit, asked.folder)
    named = {column for record in records for column in record.fields}
    # other data than the run's may have our columns already
    records = rename_columns(records, {name: column for name, column in asked.columns.items() if column in named})
    model_config = load_model_config(target.base)
    context = context_length(model_config)
    labels = None
    if config.task == "sequence_classification":
        labels = adapter_labels(target.adapter) if target.adapter else model_labels(model_config)
    max_length = choose_max_length(config.data.max_length, context)
    scoring = Scoring(config.evaluation.scorer, config.evaluation.extraction)
    data = prepare(
        records, asked.format, tokenizer, config.evaluation.metric, max_length, asked.train_on_prompt, labels, scoring
    )
    check_context(data, context, config.evaluation.max_new_tokens)
    return data


def _scored_by(config: RunConfig, data: EvaluationData) -> str:
    """The metric, and the extraction where answers are read by another than the default."""
    extraction = config.evaluation.extraction
    read = any(part.prompts for part in data.parts) and extraction != "standard"
    return f"{data.metric}.{extraction}" if read else data.metric


def predictions_file(question: Question, target: Target, names: Sequence[str], scored_by: str) -> Path:
    """Where the predictions on what is called `names` will be written; LinchainError where they may or can not be."""
    inside = target.predictions.name != str(target.predictions)  # the run's own folder needs no name of the target
    data = "+".join(names)[:LONGEST_NAME]
    base = f"on-{Path(question.base).name}" if question.base else ""
    stem = ".".join(part for part in ("" if inside else Path(question.target).name, data, scored_by, base) if part)
    file = user_path(question.output) if question.output else target.predictions / f"{stem}.jsonl"
    if file.exists() and not question.overwrite:
        raise LinchainError(f"predictions file {file} exists; name another with --output, or --overwrite it")
    check_writable(file.parent)
    return file


def target_tokenizer(target: Target, config: RunConfig) -> Any:
    """The tokenizer that lies beside the target's adapter, else that of its base model."""
    own = target.adapter if target.adapter and (target.adapter / "tokenizer_config.json").is_file() else None
    return load_tokenizer(str(own or target.base), config.model.chat_template)


def load_target(target: Target, config: RunConfig, tokenizer: Any, labels: Labels | None = None) -> Any:
    """The target's base model with its adapter, if it has one, on the accelerator, if there is one."""
    import torch

    base, new_head = config.model, target.adapter is not None
    model: Any = load_model(target.base, tokenizer, base.dtype, labels, new_head, base.quantization)
    if target.adapter:
        model = load_adapter(model, target.adapter)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return model
