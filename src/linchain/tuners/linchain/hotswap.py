"""Hot-swapping with chains: what PEFT's `peft.utils.hotswap` does for A and B, done for the matrices between them.

PEFT pads A and B with zeros to a target rank by building new plain layers, which would drop the chain, and fills what a new
adapter lacks with zeros, which would make ΔW zero. `registration.py` puts these two functions around PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from linchain.errors import LinchainError
from linchain.tuners.linchain.chain import ChainedA, HasChain, chained_class
from linchain.tuners.linchain.remembered import forget_all


def pad_chained(pad: Callable[..., Any], module: Any, target_rank: int, **kwargs: Any) -> nn.Module:
    """PEFT's `pad` for `lora_A[adapter]` or `lora_B[adapter]`, keeping A's chain: zero rows and columns change no product.

    Raises:
        LinchainError: For a chain that is not square, which has no one rank to pad to.
    """
    padded = pad(module, target_rank=target_rank, **kwargs)
    if padded is module or not isinstance(module, ChainedA):
        return padded
    if not module.is_stacked:
        raise LinchainError(
            "LinChain does not support padding chain_widths for compiled hot-swapping: use chain_length"
        )
    padded.__class__ = chained_class(padded.__class__)
    padded.chain_names = module.chain_names
    old = module.chain
    new = old.new_zeros(target_rank, old.shape[1], target_rank)
    padded.chain = nn.Parameter(_embed(new, old, kwargs.get("base_layer_groups", 1)), requires_grad=old.requires_grad)
    return padded


def swap_with_chains(
    swap: Callable[..., None],
    model: nn.Module,
    state_dict: dict[str, Tensor],
    adapter_name: str,
    config: Any,
    parameter_prefix: str = "lora_",
) -> None:
    """PEFT's `hotswap_adapter_from_state_dict`, with the new chains padded to the present ones.

    Raises:
        LinchainError: Where the new adapter has no chain, or one of another length, for a module it adapts.
    """
    fitted = dict(state_dict)
    for name, module in model.named_modules():
        if not isinstance(module, HasChain) or name.rpartition(".")[2] != adapter_name:
            continue
        name = name.removeprefix("_orig_mod.")  # torch.compile's wrapper
        if f"{name}.weight" not in state_dict:
            continue  # the new adapter leaves this module alone
        for leaf in module.chain_names:
            key = f"{name}.{leaf}"
            fitted[key] = _fit(key, state_dict.get(key), getattr(module, leaf), _groups(model, name))
    swap(model, fitted, adapter_name=adapter_name, config=config, parameter_prefix=parameter_prefix)
    forget_all(model)  # PEFT writes through `.data`


def _groups(model: nn.Module, name: str) -> int:
    """Groups of the base layer whose chain is the module `name` (`….lora_A.<adapter>`)."""
    layer: Any = model.get_submodule(name.rsplit(".", 2)[0])
    return getattr(layer.get_base_layer(), "groups", 1)


def _fit(key: str, new: Tensor | None, old: Tensor, groups: int) -> Tensor:
    if new is None or not _same_length(new, old):
        found = "none" if new is None else f"one of shape {tuple(new.shape)}"
        raise LinchainError(
            f"LinChain cannot hot-swap a chain of another length: {key} has shape {tuple(old.shape)}, the new adapter "
            f"has {found}. Fold both adapters to LoRA (linchain export --to lora) and swap those"
        )
    if new.shape[-1] >= old.shape[-1]:
        return new  # equal, or larger than what is there: PEFT then replaces the tensor, as it does for A and B
    return _embed(torch.zeros_like(old, dtype=new.dtype, device=new.device), new, groups)


def _same_length(new: Tensor, old: Tensor) -> bool:
    if new.dim() == old.dim() == 3:
        return new.shape[1] == old.shape[1]
    return new.shape == old.shape  # one matrix of a chain that is not square


def _embed(zeros: Tensor, chain: Tensor, groups: int) -> Tensor:
    """Put a square chain (r, n, r) into zeros (t, n, t), each group's rows and columns where PEFT puts A's and B's."""
    r, t = chain.shape[-1], zeros.shape[-1]
    index = torch.cat([torch.arange(r // groups) + group * (t // groups) for group in range(groups)]).to(zeros.device)
    zeros[index[:, None], :, index] = chain.detach().mT
    return zeros
