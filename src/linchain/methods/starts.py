"""How the methods start that `linchain.methods.apply.apply` alone cannot: see `Method.adapt`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.loraga import get_target_modules, preprocess_loraga
from peft.utils.other import get_pattern_key
from torch import Tensor
from transformers import PreTrainedModel

from linchain.errors import LinchainError, first_line
from linchain.methods.apply import apply
from linchain.tuners.linchain.chain import Chain

Backward = Callable[[int], None]


def full(model: PreTrainedModel, config: None, own: Mapping[str, Any], backward: Backward | None) -> PreTrainedModel:
    """All weights to be trained, in float32: updates below bfloat16's resolution would be lost. PEFT does so, too."""
    return model.float().requires_grad_(True)


def lora_ga(model: PreTrainedModel, config: LoraConfig, own: Mapping[str, Any], backward: Backward | None) -> PeftModel:
    """LoRA-GA (arXiv 2407.05000) from the mean gradient over `own["gradient_batches"]` training batches."""
    if _without_data(model):
        return apply(model, config)
    if backward is None:
        raise LinchainError("method 'lora-ga' starts from gradients: it needs the `backward` over training batches")
    try:
        with warnings.catch_warnings():
            # PEFT counts passes by hooks, which count all the same where no input needs a gradient
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            preprocess_loraga(model, config, lambda: backward(own["gradient_batches"]))
    except ValueError as error:
        raise LinchainError(f"method 'lora-ga': {first_line(error)}") from error
    for name, module in get_target_modules(model, config):
        ranks = config.rank_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
        if 2 * rank > min(module.weight.shape):
            raise LinchainError(
                f"method 'lora-ga': r {rank} is too large for {name}: it takes 2 r singular vectors of a gradient of shape "
                f"{tuple(module.weight.shape)}"
            )
    return apply(model, config)


@torch.no_grad()
def lora_chain_start(
    model: PreTrainedModel, config: LoraConfig, own: Mapping[str, Any], backward: Backward | None
) -> PeftModel:
    """A plain LoRA whose A is what A and the chain are together in a LinChain drawn at the same seed."""
    adapted = apply(model, config)
    if _without_data(model):
        return adapted
    for layer in [module for module in adapted.modules() if isinstance(module, LoraLayer)]:
        # an embedding's A starts at zero, with a chain as without
        for name, module in layer.lora_A.items():
            chain, a = Chain(), cast(Tensor, module.weight)
            chain.add_chain((layer.r[name],) * (own["chain_length"] + 1), own["init_weights"], like=a, drawn=a)
            a.copy_(chain.folded(a.flatten(1)).view_as(a))
    return adapted


def _without_data(model: PreTrainedModel) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())
