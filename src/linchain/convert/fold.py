"""LinChain → plain LoRA, exactly: the chain is multiplied into A and B (ΔW = s · B W_n … W_1 A is a LoRA).

The chain is cut where it is narrowest, at width r_k: A' = W_k … W_1 A and B' = B W_n … W_{k+1}, so that the LoRA's rank
is min r_i. A square chain goes into A whole, multiplied as in the model, to the same bits.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linchain.convert.adapter import adapted_modules, adapter_of, factor_keys, init_fields
from linchain.errors import LinchainError
from linchain.ops.chain import fold, prefixes, unstack
from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

_CHAIN_KEY = re.compile(r"(?P<module>.+)\.lora_(?:A|embedding_chain)\.chain(?:_(?P<index>\d+))?$")


def fold_to_lora(
    adapter: nn.Module | Path | str, adapter_name: str = "default", dtype: torch.dtype | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The plain LoRA adapter that a LinChain adapter equals.

    Args:
        adapter: A live PeftModel, or the folder of a saved adapter (or of a run). A folder's base model is not needed.
        adapter_name: Which adapter of a live model.
        dtype: Dtype of all tensors returned. By default the factors that the chain was folded into are float32 (float64
            where they were), so that nothing of the product is lost, and all else keeps the dtype it has.

    Returns:
        (config, state_dict): a `peft.LoraConfig` whose rank is the narrowest width of the chain and whose `lora_alpha`
        keeps the scale s, and CPU tensors with PEFT's saved keys. Biases, DoRA's magnitudes, `modules_to_save`,
        trainable tokens and all else that is not of the chain is carried through as it is.

    Raises:
        LinchainError: For what is no LinChain adapter.
    """
    config, tensors = adapter_of(adapter, adapter_name)
    if not isinstance(config, LinChainConfig):
        raise LinchainError(f"fold_to_lora needs a LinChain adapter, got one of type {config.peft_type}")
    return fold_adapter(config, tensors, dtype)


def fold_adapter(
    config: LinChainConfig, tensors: dict[str, Tensor], dtype: torch.dtype | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """`fold_to_lora` of a configuration and its tensors."""
    chains = _chains(tensors)
    if missing := [module for module in adapted_modules(tensors) if config.chain_length and module not in chains]:
        raise LinchainError(f"the adapter's configuration promises a chain, but {missing[0]} has none")
    cut = _cut(config, tensors, chains)
    folded = {key: tensor for key, tensor in tensors.items() if not _CHAIN_KEY.match(key)}
    tied = _tied_heads(config, tensors)
    for module, factors in chains.items():
        if module not in tied:
            a_key, b_key = factor_keys(module, tensors)
            folded[a_key], folded[b_key] = _fold_module(tensors[a_key], tensors[b_key], factors, cut)
    for head, embedding in tied.items():
        # a tied output embedding is the transposed of its input embedding: A = B_embᵀ, B = A_embᵀ
        for own, other in zip(factor_keys(head, tensors), reversed(factor_keys(embedding, tensors)), strict=True):
            folded[own] = folded[other].T.contiguous()
    folded = {key: cast(tensor, dtype) for key, tensor in folded.items()}
    return _lora_config(config, rank=config.widths(config.r)[cut] if cut is not None else config.r), folded


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`tensor` in `dtype` where one is given and it holds floating-point numbers."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class _Chain:
    """W_1 … W_n of one module, each (r_i, r_{i-1}) or (experts, r_i, r_{i-1})."""

    factors: list[Tensor]

    @property
    def experts(self) -> int:
        return self.factors[0].shape[0] if self.factors[0].dim() == 3 else 1


def _chains(tensors: dict[str, Tensor]) -> dict[str, _Chain]:
    """The chain of every module that has one, by the module's key prefix."""
    stored: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        if match := _CHAIN_KEY.match(key):
            parts = stored.setdefault(match["module"], {})
            if match["index"] is None:
                parts.update(enumerate(unstack(tensor)))
            else:
                parts[int(match["index"])] = tensor
    return {module: _Chain([parts[i] for i in sorted(parts)]) for module, parts in stored.items()}


def _cut(config: LinChainConfig, tensors: dict[str, Tensor], chains: dict[str, _Chain]) -> int | None:
    """How many matrices go into A: up to the narrowest width, the last of them where several are. None: square chains.

    One rule for all modules keeps the LoRA at one rank. The B of a grouped convolution reads a slice of the rank for
    each group, so that a chain cannot go into it.
    """
    widths = config.widths(config.r)
    if len(set(widths)) == 1:
        return None
    grouped = any(
        (b := tensors[factor_keys(module, tensors)[1]]).dim() > 2 and b.shape[1] != widths[-1] for module in chains
    )
    return len(widths) - 1 if grouped else max(i for i, width in enumerate(widths) if width == min(widths))


def _fold_module(a: Tensor, b: Tensor, chain: _Chain, cut: int | None) -> tuple[Tensor, Tensor]:
    """(A', B') in float32 or wider where they changed.

    A folds as it does in the model's own forward, to the same bits; only the scale may be applied elsewhere and round
    otherwise. What goes into B is multiplied in float64.

    Shapes: a (r_0, in), (r_0, in, *kernel), or (experts·r_0, in); b (out, r_n), (out, r_n, *ones), or
    (out, r_n·experts) with the expert as the fastest index, as PEFT lays it out.
    """
    into_a, into_b = chain.factors[:cut], chain.factors[cut:] if cut is not None else []
    folded_a, folded_b = a, b
    if into_a:
        folded_a = _store(_fold_a(a, into_a, chain.experts), a)
    if into_b:
        product = prefixes([factor.double() for factor in into_b])[-1]
        folded_b = _store(_fold_b(b.double(), product, chain.experts), b)
    return folded_a, folded_b


def _fold_a(a: Tensor, factors: Sequence[Tensor], experts: int) -> Tensor:
    if experts > 1:
        return fold(a.unflatten(0, (experts, -1)), factors).flatten(0, 1)
    return fold(a.flatten(1), factors).unflatten(1, a.shape[1:])


def _fold_b(b: Tensor, product: Tensor, experts: int) -> Tensor:
    if experts > 1:
        return torch.einsum("ose,esr->ore", b.unflatten(1, (-1, experts)), product).flatten(1)
    return torch.einsum("os...,sr->or...", b, product)


def _store(folded: Tensor, like: Tensor) -> Tensor:
    return folded.to(torch.promote_types(like.dtype, torch.float32)).contiguous()


def _tied_heads(config: LinChainConfig, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Output embeddings whose adapter PEFT tied to that of the input embedding (`ensure_weight_tying`), by prefix."""
    if not config.ensure_weight_tying:
        return {}
    embeddings = [key.removesuffix(".lora_embedding_A") for key in tensors if key.endswith(".lora_embedding_A")]
    heads = [module for module in adapted_modules(tensors) if module not in embeddings]
    return {
        head: embedding
        for head in heads
        for embedding in embeddings
        if all(
            torch.equal(tensors[own], tensors[other].T)
            for own, other in zip(factor_keys(head, tensors), reversed(factor_keys(embedding, tensors)), strict=True)
        )
    }


def _lora_config(config: LinChainConfig, rank: int) -> LoraConfig:
    """The plain LoRA configuration of rank `rank` with the same scale s."""
    from peft import LoraConfig

    fields = {name: copy.deepcopy(getattr(config, name)) for name in init_fields(LoraConfig)}
    if rank != config.r:
        ratio = math.sqrt(rank / config.r) if config.use_rslora else rank / config.r
        fields["r"] = rank
        fields["lora_alpha"] = _plain(config.lora_alpha * ratio)
        fields["alpha_pattern"] = {name: _plain(alpha * ratio) for name, alpha in (config.alpha_pattern or {}).items()}
    return LoraConfig(**fields)


def _plain(alpha: float) -> float:
    """An integer where it is one: some LoRA servers take no other."""
    return int(alpha) if float(alpha).is_integer() else alpha
