"""Model shapes: facts of published architectures, and models without data built from them or from any config.

The JSON files beside this one are the `config.json` of LLaMA-2-7B, LLaMA-3-8B and RoBERTa-base: sizes only, no weights.
Everything is built on the meta device, where a tensor has a shape and a dtype and no memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linchain.errors import LinchainError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_FOLDER = Path(__file__).parent
STARTER = "starter"


def names() -> list[str]:
    """The architectures shipped as facts."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def is_causal_lm(class_name: str) -> bool:
    """Whether a Transformers model class of this name predicts the next token.

    Args:
        class_name: as in a config's `architectures`, e.g. "LlamaForCausalLM".
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def load_config(model: str) -> PretrainedConfig:
    """The Transformers config of a shipped architecture, "starter", a folder with a config.json, or a Hub name.

    Only the config is read. A Hub name has the form owner/name and costs one small download when it is not in the local
    cache; a name without an owner is looked up in the cache alone, so that a typing error is answered at once.

    Raises:
        LinchainError: For a name that is none of these.
    """
    from transformers import AutoConfig

    source, local = _source(model)
    try:
        return AutoConfig.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        known = [*names(), STARTER]
        close = nearest(model, known)
        hint = f"did you mean {close!r}? " if close else ""
        reason = "" if local and not Path(source).exists() else f" ({str(error).strip().splitlines()[0]})"
        raise LinchainError(
            f"unknown model {model!r}; {hint}Accepted: {', '.join(known)}, a folder with a config.json, or a Hub name "
            f"owner/name{reason}"
        ) from None


def _source(model: str) -> tuple[str, bool]:
    """Where the config of `model` is read from, and whether only this machine is asked."""
    if Path(model).is_dir():
        return model, True
    if model in names():
        return str(_FOLDER / f"{model}.json"), True
    if model == STARTER:
        from linchain import starter

        return str(starter.model_dir()), True
    owner, _, name = model.partition("/")
    return model, not (owner and name) or owner in (".", "..", "~")


def build(config: PretrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model of `config` on the meta device: a causal LM, or a sequence classifier where it is none.

    Args:
        config: as returned by `load_config`.
        dtype: of the weights; the config's own, or float32, by default.

    Raises:
        LinchainError: For an architecture that Transformers has neither as causal LM nor as sequence classifier.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    classes = getattr(config, "architectures", None) or []
    # a config that names no class may still be of a type that has a causal LM
    causal = any(map(is_causal_lm, classes)) if classes else config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    auto_class = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config, dtype=dtype or getattr(config, "dtype", None) or torch.float32)
    except ValueError as error:
        raise LinchainError(f"cannot build a {config.model_type!r} model: {str(error).splitlines()[0]}") from None
    model.name_or_path = ""  # there is no checkpoint behind it for PEFT to compare with
    return model
