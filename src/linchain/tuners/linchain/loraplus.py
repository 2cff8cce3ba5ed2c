"""LoRA+ with chains: their matrices belong to B's group, the fast one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from linchain.tuners.linchain.chain import HasChain


def speed_up_chains(create: Callable[..., Optimizer], model: nn.Module, *args: Any, **kwargs: Any) -> Optimizer:
    """PEFT's `create_loraplus_optimizer`, with the chains moved from A's group to B's.

    PEFT tells the groups by name and gives the fast rate to `lora_B` alone. LoRA+ (arXiv 2402.12354) slows A because A's
    input is as wide as the model; the chain's matrices, like B, have inputs as wide as the rank.
    """
    optimizer = create(model, *args, **kwargs)
    owners = [module for module in model.modules() if isinstance(module, HasChain)]
    chains = {id(parameter) for owner in owners for parameter in owner.chain_parameters()}
    slow, _embedding, fast, _fast_without_decay = optimizer.param_groups
    fast["params"] += [p for p in slow["params"] if id(p) in chains]
    slow["params"] = [p for p in slow["params"] if id(p) not in chains]
    return optimizer
