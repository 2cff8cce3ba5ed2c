"""An adapter merged into its base model: a plain Transformers checkpoint, in the base's own dtypes."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linchain.convert.adapter import BASE_PREFIX
from linchain.convert.base import BaseModel
from linchain.errors import LinchainError
from linchain.methods.attach import attach

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel

# Switches of Transformers' configurations that give linear layers a bias where the architecture has none by default.
_BIAS_FLAGS = ("attention_bias", "mlp_bias", "qkv_bias")


def merged_model(
    base: BaseModel,
    config: PeftConfig,
    tensors: dict[str, Tensor],
    dtype: torch.dtype | None,
    output_biases: dict[str, Tensor],
) -> PreTrainedModel:
    """The base model with an adapter merged into its weights, and nothing of PEFT left.

    The update is added in float32; each weight is then rounded once, to the dtype that it has in the base model.

    Args:
        base: The base model, dense. Of one that was dequantised all weights get its own dtype.
        config, tensors: The adapter.
        dtype: Dtype of all weights, instead of the base's; None for those.
        output_biases: Vectors to add to the biases of modules, shape (out,), by the module's key prefix. Where a module
            has no bias and the architecture has a switch for it, that switch is turned on.

    Raises:
        LinchainError: For an adapter that does not fit, and a bias for which there is no place.
    """
    model_config, new = config_with_biases(base, list(output_biases))
    model = base.load("auto", model_config)
    main = model.dtype
    dtypes = {} if base.is_dequantized else {name: tensor.dtype for name, tensor in _floating(model)}
    model.float()
    for name, parameter in model.named_parameters():
        if name in new:
            nn.init.zeros_(parameter)
    untied = _untie(model)
    try:
        merged = attach(model, config, tensors).merge_and_unload()
    except NotImplementedError as error:
        raise LinchainError(f"the adapter cannot be merged: {error}") from error
    for module, bias in output_biases.items():
        merged.get_submodule(module.removeprefix(BASE_PREFIX)).bias.data += bias
    if untied:
        _tie_again(merged)
    for name, tensor in _floating(merged):
        tensor.data = tensor.data.to(dtype or dtypes.get(name, main))
    return merged


def _floating(model: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]


def _untie(model: PreTrainedModel) -> bool:
    """Give the output embedding a weight of its own, so that a merge into one embedding is none into the other."""
    embedding, head = _embeddings(model)
    if head is None or head.weight is not embedding.weight:
        return False
    head.weight = nn.Parameter(head.weight.detach().clone())
    return True


def _tie_again(model: PreTrainedModel) -> None:
    """Tie the output embedding to the input embedding as before, or say in the configuration that they differ now."""
    embedding, head = _embeddings(model)
    if torch.equal(embedding.weight, head.weight):
        head.weight = embedding.weight
        # PEFT, which saw two weights, has switched it off
        model.config.tie_word_embeddings = True
    else:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def _embeddings(model: PreTrainedModel) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def config_with_biases(base: BaseModel, modules: list[str]) -> tuple[PreTrainedConfig, set[str]]:
    """A configuration under which all `modules` have a bias, and the names of the parameters that it adds.

    Raises LinchainError where the architecture has no place for a bias that is needed.
    """
    config = copy.deepcopy(base.config)
    if not modules:
        return config, set()
    missing = _without_bias(base, config, modules)
    for flag in _BIAS_FLAGS:
        if missing and getattr(config, flag, None) is False:
            setattr(config, flag, True)
            still = _without_bias(base, config, modules)
            if len(still) == len(missing):
                setattr(config, flag, False)
            missing = still
    if missing:
        raise LinchainError(
            f"the mixer biases cannot be kept: {missing[0]} ({len(missing)} modules in all) has no bias, and the "
            f"configuration of a {config.model_type} model has no switch that gives it one"
        )
    before = {name for name, _ in base.skeleton(base.config).named_parameters()}
    return config, {name for name, _ in base.skeleton(config).named_parameters()} - before


def _without_bias(base: BaseModel, config: PreTrainedConfig, modules: list[str]) -> list[str]:
    model = base.skeleton(config)
    names = [module.removeprefix(BASE_PREFIX) for module in modules]
    try:
        return [name for name in names if getattr(model.get_submodule(name), "bias", None) is None]
    except AttributeError as error:
        raise LinchainError(f"the adapter is for another model: {error}") from error
