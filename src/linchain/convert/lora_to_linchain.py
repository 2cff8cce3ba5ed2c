"""Plain LoRA → LinChain with a chain of identity matrices: the same function, ready to be trained on as a chain."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linchain.convert.adapter import adapted_modules, adapter_of, factor_keys, init_fields
from linchain.errors import LinchainError
from linchain.ops import stack
from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


def lora_to_linchain(
    adapter: nn.Module | Path | str, chain_length: int = 3, adapter_name: str = "default"
) -> tuple[LinChainConfig, dict[str, Tensor]]:
    """The LinChain adapter with `chain_length` identity matrices in each module that a plain LoRA adapter equals.

    Args:
        adapter: A live PeftModel, or the folder of a saved adapter.
        chain_length: Number n of square matrices; each module's are as wide as its rank (`rank_pattern`).
        adapter_name: Which adapter of a live model.

    Returns:
        (config, state_dict): a `LinChainConfig` with `init_weights="identity"`, and CPU tensors with PEFT's saved keys.

    Raises:
        LinchainError: For what is no plain LoRA, and for the variants that `LinChainConfig` refuses.
    """
    config, tensors = adapter_of(adapter, adapter_name)
    if isinstance(config, LinChainConfig) or config.peft_type != "LORA":
        raise LinchainError(f"lora_to_linchain needs a LoRA adapter, got one of type {config.peft_type}")
    return add_identity_chains(config, tensors, chain_length)


def add_identity_chains(
    config: LoraConfig, tensors: dict[str, Tensor], chain_length: int
) -> tuple[LinChainConfig, dict[str, Tensor]]:
    """`lora_to_linchain` of a configuration and its tensors."""
    linchain = linchain_config(config, chain_length)
    if config.target_parameters and config.rank_pattern:
        raise LinchainError(
            "a LoRA with target_parameters and rank_pattern does not say how many experts its tensors hold"
        )
    chained = dict(tensors)
    if chain_length:
        for module in adapted_modules(tensors):
            a = tensors[factor_keys(module, tensors)[0]]
            rank = config.r if config.target_parameters else a.shape[0]
            experts = (a.shape[0] // rank,) if a.shape[0] > rank else ()
            identity = torch.eye(rank, dtype=a.dtype).expand(*experts, rank, rank)
            chained[chain_key(module, tensors)] = stack([identity] * chain_length)
    return linchain, chained


def linchain_config(config: LoraConfig, chain_length: int) -> LinChainConfig:
    """LoRA's configuration as LinChain's with a square chain; LinchainError for the LoRA variants that it refuses."""
    fields = {name: copy.deepcopy(getattr(config, name)) for name in init_fields(type(config))}
    return LinChainConfig(**fields, chain_length=chain_length, init_weights="identity")


def chain_key(module: str, tensors: dict[str, Tensor]) -> str:
    """Where a module's square chain is stored: beside A, or, for embeddings, in a module of its own."""
    embedding = f"{module}.lora_embedding_A" in tensors
    return f"{module}.lora_embedding_chain.chain" if embedding else f"{module}.lora_A.chain"
