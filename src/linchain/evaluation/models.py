"""Loads tokenizers, base models and adapters, and says plainly what cannot be loaded and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, first_line, nearest
from linchain.evaluation.quantization import LIBRARIES, Quantization, load_options, prepare, stored_quantization
from linchain.methods.attach import attach
from linchain.methods.untrusted import check_links, named_base, read_config, read_json
from linchain.paths import user_path
from linchain.tasks.encoding import pad_token_id
from linchain.tasks.sentence_pair import MOST_CLASSES, Labels

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

STARTER = "starter"
# Where runs lie unless told otherwise; what begins so is never looked up on the Hub.
RUNS = "runs/"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# The classes of a classifier, beside the adapter that was trained for them.
LABELS_FILE = "labels.json"
MOST_LAYERS = 4096  # of a model; each is built before its weights are looked for
# Keys of config.json, whatever the architecture, and the largest number that is accepted for them.
_LARGEST = {
    "num_labels": MOST_CLASSES,
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), MOST_LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), MOST_LAYERS),
}
# Types of models that number positions from pad_token_id + 1 on, so that the first rows of the table go unused.
POSITIONS_AFTER_PADDING = frozenset(
    (
        "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    )
)  # fmt: skip


def model_path(name: str) -> str:
    """What transformers loads `name` from: the packaged model for `starter`, else `name` itself.

    Raises LinchainError for a path where nothing is, and for an adapter folder.
    """
    path = user_path(name)
    # an adapter names the packaged model by where the package lay when it was trained
    if name == STARTER or (path.parts[-3:] == ("linchain", "starter", "model") and not path.is_dir()):
        from linchain import starter

        return str(starter.model_dir())
    if (path / ADAPTER_CONFIG).is_file():
        raise LinchainError(f"model {name!r} is an adapter, not a model; name the base model it was trained on")
    if path.is_dir():
        # an adapter names its base model by this, and one that named a way up would be refused (methods/untrusted.py)
        return str(path.resolve() if ".." in path.parts else path)
    if path.is_file():
        raise LinchainError(f"model {name!r} is a file; name the folder with its config.json and *.safetensors")
    looks_like_path = name.startswith((".", "/", "~", RUNS)) or name.count("/") > 1
    if looks_like_path or _holds_runs(path.parent):
        raise LinchainError(f"model folder {name} does not exist{_similar_folder(path)}")
    return name


def load_model_config(name: str) -> PreTrainedConfig:
    """The base model's configuration. LinchainError where there is none, or its values are none that a model can have."""
    from transformers import AutoConfig, PreTrainedConfig

    path = model_path(name)
    with loading(f"model {name!r}", name):
        _check_model_config(PreTrainedConfig.get_config_dict(path)[0])
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def _check_model_config(values: Any) -> None:
    """Raise LinchainError for what transformers would not refuse, or only after it took all memory or time."""
    if not isinstance(values, dict):
        raise LinchainError(f"config.json holds no object, but {values!r:.80}")
    architectures = values.get("architectures")
    names = architectures if isinstance(architectures, list) else [architectures]
    if architectures is not None and not all(isinstance(name, str) for name in names):
        raise LinchainError(f"config.json: architectures must be a list of names, got {architectures!r:.80}")
    if not isinstance(quantization := values.get("quantization_config", {}), dict | None):
        raise LinchainError(f"config.json: quantization_config must be an object, got {quantization!r:.80}")
    for part in _objects(values):
        for key, most in _LARGEST.items():
            if isinstance(found := part.get(key), int | float) and found > most:
                raise LinchainError(f"config.json: {key} {found} is too large; at most {most:,} are accepted")


def _objects(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`values` and all objects in it: a model of several parts has a configuration for each."""
    yield values
    for value in values.values():
        if isinstance(value, dict):
            yield from _objects(value)


def load_tokenizer(name: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model (or in a folder), with the Jinja file `chat_template` in place of its own template.

    LinchainError where it cannot be loaded, and for links out of an adapter's folder.
    """
    from transformers import AutoTokenizer, PreTrainedConfig

    folder = user_path(name)
    if (folder / ADAPTER_CONFIG).is_file():
        check_links(folder)
        path = name
    else:
        path = model_path(name)
    with loading(f"tokenizer of model {name!r}", name):
        with suppress(OSError):  # it may lie alone; where config.json lies beside it, transformers reads that first
            _check_model_config(PreTrainedConfig.get_config_dict(path)[0])
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if chat_template is not None:
        try:
            tokenizer.chat_template = user_path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LinchainError(f"model.chat_template {chat_template} cannot be read: {error}") from error
    return tokenizer


def load_model(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "auto",
    labels: Labels | None = None,
    new_head: bool = True,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """The base model, from safetensors only: a causal LM, or with `labels` a sequence classifier for them.

    With `quantization` its weights are quantised while they are loaded; either way bitsandbytes' and torchao's are made ready
    for training.

    A classifier's head that the checkpoint does not hold is drawn at random; the bias of a regression's, where it has one,
    starts at the labels' mean: learning it from 0 would push all features one way. Without `new_head`, and for a causal LM,
    missing weights raise LinchainError.
    """
    import transformers

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    loader: Any = transformers.AutoModelForCausalLM
    if labels is not None:
        loader = transformers.AutoModelForSequenceClassification
        options |= head_options(labels)
    if quantization is not None:
        options |= load_options(quantization, dtype, load_model_config(name))
    path = model_path(name)
    with loading(f"model {name!r}", name):
        model, info = loader.from_pretrained(path, output_loading_info=True, **options)
    if info["missing_keys"] and (labels is None or not new_head):
        missing = sorted(info["missing_keys"])
        raise LinchainError(
            f"model {name!r} holds no weights for {', '.join(missing[:3])} ({len(missing)} in all): "
            f"it is no {'causal language model' if labels is None else 'trained sequence classifier'}"
        )
    if labels is not None and labels.mean is not None:
        _start_at(model, labels.mean, info["missing_keys"])
    text_config = model.config.get_text_config()
    if labels is not None or text_config.pad_token_id is None:
        # a classifier finds the last token by it, so it must be the one that batches are padded with
        text_config.pad_token_id = pad_token_id(tokenizer)
    return prepare(model) if stored_quantization(model.config) in LIBRARIES else model


def _start_at(model: PreTrainedModel, mean: float, drawn: Iterable[str]) -> None:
    """The bias of a newly drawn regression head, where it has one."""
    import torch

    for name in drawn:
        parameter = model.get_parameter(name)
        if name.endswith("bias") and parameter.shape == (1,):
            with torch.no_grad():
                parameter.fill_(mean)


def head_options(labels: Labels) -> dict[str, Any]:
    """What a classifier's configuration says of its classes; of a regression where there are none."""
    if labels.names is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": labels.outputs,
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(labels.names)),
        "label2id": {name: index for index, name in enumerate(labels.names)},
    }


def context_length(config: PreTrainedConfig) -> int | None:
    """The longest sequence that the model was made for, in tokens; None where its configuration does not say."""
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in POSITIONS_AFTER_PADDING:
        return positions - config.pad_token_id - 1
    return positions


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """`model` with the adapter in `folder`, from safetensors only, for evaluation.

    LinchainError where the adapter was made for another model, or lacks tensors that it needs.
    """
    from linchain.convert.adapter import read_adapter  # which imports this module

    files = read_adapter(folder)
    return attach(model, files.peft_config(), files.tensors, f"adapter {folder}")


def adapter_base(folder: Path) -> str:
    """The name of the base model that the adapter in `folder` was trained on; LinchainError for a place where none is."""
    name = named_base(folder, read_config(folder))
    try:
        model_path(name)
    except LinchainError as error:
        raise LinchainError(f"{error} (named by the adapter; --model names another place)") from error
    return name


def adapter_labels(folder: Path) -> Labels:
    """The classes that a classifier's adapter was trained for."""
    try:
        names = read_json(folder / LABELS_FILE)
    except LinchainError as error:
        raise LinchainError(
            f"adapter {folder} has no readable {LABELS_FILE}, so its classes are unknown ({error})"
        ) from error
    if names is not None and not _are_classes(names):
        raise LinchainError(
            f"adapter {folder}: {LABELS_FILE} must be a list of 2 to {MOST_CLASSES:,} different texts, or null"
        )
    return Labels(None if names is None else tuple(names))


def _are_classes(names: Any) -> bool:
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return is_list and 2 <= len(set(names)) == len(names) <= MOST_CLASSES


def model_labels(config: PreTrainedConfig) -> Labels:
    """The classes of a model that is a classifier already; unnamed ones are called by their numbers."""
    if config.num_labels == 1:
        return Labels(None)
    names: dict[Any, str] = dict(config.id2label or {})
    return Labels(tuple(names[index].removeprefix("LABEL_") for index in sorted(names)))


def model_task(config: PreTrainedConfig) -> str:
    """The task that a model's checkpoint was made for, by its architecture."""
    classifier = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return "sequence_classification" if classifier else "causal_lm"


def adapter_task(folder: Path) -> str:
    """The task that the adapter in `folder` was trained for."""
    return "sequence_classification" if read_config(folder).get("task_type") == "SEQ_CLS" else "causal_lm"


def _holds_runs(folder: Path) -> bool:
    """Whether `folder`, other than the working directory, holds runs or adapters: its name is then no owner on the Hub."""
    return folder != Path() and any(any(folder.glob(f"*/{file}")) for file in ("config.yaml", ADAPTER_CONFIG))


def _similar_folder(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    close = nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])
    return f"; did you mean {path.parent / close}?" if close else ""


@contextmanager
def loading(what: str, name: str | None = None) -> Iterator[None]:
    """Transformers loads something within it: what is raised, which is anything for files that nobody checked, becomes a
    LinchainError about `what`. With the `name` that was given to transformers it says where that was looked for."""
    try:
        yield
    except Exception as error:
        looked_up = name not in (None, STARTER) and not user_path(name).exists()
        where = "; there is no such folder, so it was looked up as a Hub name" if looked_up else ""
        meant = isinstance(error, OSError | ValueError | RuntimeError | ImportError)
        reason = first_line(error) if meant else f"{type(error).__name__}: {first_line(error)}"
        raise LinchainError(f"{what} cannot be loaded{where}: {reason}") from error
