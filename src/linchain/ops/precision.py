"""Switching autocast off where a formula chooses its own dtypes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def own_dtypes(tensor: Tensor) -> AbstractContextManager:
    """A context without autocast on `tensor`'s device; the meta device has none to switch off."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that autocast computes in on `tensor`'s device; None where it is off."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
