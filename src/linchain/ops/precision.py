"""In which dtype a formula computes: autocast, and what the processor can multiply."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def own_dtypes(tensor: Tensor) -> AbstractContextManager:
    """A context without autocast on `tensor`'s device."""
    return nullcontext() if autocast_dtype(tensor) is None else torch.autocast(tensor.device.type, enabled=False)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that autocast computes in on `tensor`'s device; None where it is off (always on the meta device)."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


# From so many tokens on a layer's time goes by its products: a CPU without 16-bit instructions then multiplies float32 several
# times as fast, the conversion of the weight included. Below, it goes by the weight's bytes and the number of calls.
MANY_TOKENS = 16


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype to do a layer's products of x (*, in) in: its own, or float32 where its device only emulates that.

    A compiler gets its own.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not _is_emulated(x.dtype):
        return x.dtype
    return torch.float32 if has_many_tokens(x) else x.dtype


def has_many_tokens(x: Tensor) -> bool:
    """Whether x (*, in) holds MANY_TOKENS or more, or is empty."""
    return x.numel() >= MANY_TOKENS * x.shape[-1]


@cache
def _is_emulated(dtype: torch.dtype) -> bool:
    instructions = {
        torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
        torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
    }
    if dtype not in instructions or not hasattr(torch.cpu, "get_capabilities"):  # an older torch cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return not any(capabilities.get(name) for name in instructions[dtype])
