"""Adapters whose start was taken out of the base weights (PiSSA, OLoRA, LoRA-GA) → plain LoRA for the weights as they were.

The model computes W0 - s·B0A0 + s·BA, so that for W0 itself ΔW = s·(BA - B0A0), a LoRA of rank 2r: A' = [A; A0] and
B' = [B, -B0]. PEFT's own conversion (`path_initial_model_for_weight_conversion`) is the same, but drops all that is neither
A nor B, a classifier's head for one, and knows no chains.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linchain.convert.adapter import adapted_modules, factor_keys
from linchain.convert.fold import fold_adapter
from linchain.errors import LinchainError
from linchain.methods.apply import moves_base
from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def start_of(model: PeftModel) -> dict[str, Tensor] | None:
    """What the untrained adapter took out of the base weights: its tensors, copied. None where it took nothing."""
    from peft import get_peft_model_state_dict

    if not moves_base(getattr(model, "active_peft_config", None)):
        return None
    return {key: tensor.detach().cpu().clone() for key, tensor in get_peft_model_state_dict(model).items()}


def for_whole_base(
    config: LoraConfig, tensors: dict[str, Tensor], start: dict[str, Tensor]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The plain LoRA adapter of rank 2r that fits the base model as it was before `start` was taken out.

    Args:
        config: The adapter's configuration, of a LoRA or of a LinChain, whose chain is folded.
        tensors: The trained adapter's, by PEFT's saved keys; what is neither A nor B is carried through.
        start: The same adapter's at its start.

    Returns:
        (config, tensors), A' of shape (2r, in) and B' (out, 2r) in the dtype of A and B (float32 or wider for a chain).
    """
    if isinstance(config, LinChainConfig):
        _, start = fold_adapter(config, start)
        config, tensors = fold_adapter(config, tensors)
    plain = dict(tensors)
    for module in adapted_modules(tensors):
        a, b = factor_keys(module, tensors)
        plain[a] = torch.cat([tensors[a], start[a].to(tensors[a])])
        plain[b] = torch.cat([tensors[b], -start[b].to(tensors[b])], dim=1)
    return _doubled(config), plain


def _doubled(config: LoraConfig) -> LoraConfig:
    """The configuration with twice the rank everywhere and the same scales."""
    ratio = math.sqrt(2) if config.use_rslora else 2
    doubled: Any = copy.deepcopy(config)
    doubled.init_lora_weights, doubled.lora_ga_config = True, None
    doubled.r, doubled.lora_alpha = 2 * config.r, ratio * config.lora_alpha
    doubled.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    doubled.alpha_pattern = {name: ratio * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    return doubled


def check_moved(model: PeftModel) -> None:
    """Refuse, before the training, what no plain LoRA could make up for in the base weights.

    Raises:
        LinchainError: For a weight that is shared with a module without the adapter, that is no matrix, or that is smaller
            than the rank.
    """
    from peft.tuners.lora import LoraLayer

    if not moves_base(getattr(model, "active_peft_config", None)):
        return
    config: Any = model.active_peft_config
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    adapter = model.active_adapter
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in [(name, layer) for name, layer in layers if adapter in layer.lora_A]:
        weight: Any = layer.get_base_layer().weight
        rank = layer.r[adapter]
        if uses[id(weight)] > 1:
            reason = "its weight is shared with another module, from which the start would be taken, too"
        elif weight.dim() != 2:
            reason = "its weight is no matrix"
        elif min(weight.shape) < rank:
            reason = f"r {rank} is more than the smaller side of its weight, {tuple(weight.shape)}"
        else:
            continue
        where = name.removeprefix("base_model.model.")
        raise LinchainError(f"init_lora_weights {config.init_lora_weights!r} cannot start {where}: {reason}")
