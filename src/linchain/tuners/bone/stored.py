"""Weights as their layers store them, quantised or not: read a few rows at a time, and kept to be put back."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from linchain.errors import LinchainError
from linchain.ops.block_linear import Rows


class Kept:
    """A layer's weight as it is stored now, to be put back bit for bit after something was merged into it."""

    def __init__(self, base: Any) -> None:
        self.base = base
        weight: Any = getattr(base, "weight", None)  # HQQ has none: it replaces the whole layer
        # a dense layer keeps its parameter and changes its data, a quantised one gets a new parameter
        self.is_dense = type(weight) is nn.Parameter and type(weight.data) is Tensor
        self.weight = weight.data if self.is_dense else weight
        # PEFT marks the old weight as not yet quantised while it makes a new one like it
        self.attributes = {} if self.is_dense else dict(vars(base if weight is None else weight))
        state = getattr(base, "state", None)  # where bitsandbytes moves the scales of an 8-bit weight in its forward
        self.scales = getattr(weight, "SCB", None) if state is None or state.SCB is None else state.SCB

    def restored(self) -> Any:
        """The layer, with its weight put back."""
        if self.is_dense:
            self.base.weight.data = self.weight.to(self.base.weight)  # it may have been moved or cast since
        elif self.weight is not None:
            vars(self.weight).update(self.attributes)
            if self.scales is not None:
                self.weight.CB, self.weight.SCB = self.weight.data, self.scales
                self.base.state.reset_grads()
            device = self.base.weight.device
            self.base.weight = self.weight if self.weight.device == device else self.weight.to(device)
        return self.base


def row_reader(base: Any, backend: Any) -> Rows:
    """A function that gives rows [start, stop) of a quantised layer's weight, (stop - start, in), dense.

    bitsandbytes' 4-bit and 8-bit weights are dequantised row by row. Of other kinds the whole weight is dequantised, and
    the rows are a view of it.

    Args:
        base: The quantised layer.
        backend: PEFT's `QuantizationBackend` for it.
    """
    if backend.backend_name == "bnb 4bit":
        _check_readable(base)
    if backend.backend_name == "bnb 4bit" and _blocks_end_with_rows(base):
        return lambda start, stop: _rows_4bit(base.weight, start, stop)
    if backend.backend_name == "bnb 8bit":
        return lambda start, stop: _rows_8bit(base, start, stop)
    return lambda start, stop: backend.get_base_weight(base)[start:stop]


def _check_readable(base: Any) -> None:
    state = base.weight.quant_state
    if state is None:
        raise LinchainError("a 4-bit weight is not quantised yet: move the model to its device first")
    if getattr(state, "packing_format_for_cpu", False):
        raise LinchainError(
            "bitsandbytes has packed a 4-bit weight for this processor's own kernels, and bone-col cannot read it. It does so "
            'in evaluation without gradients: use form="row", or load the model again'
        )


def _blocks_end_with_rows(base: Any) -> bool:
    """Whether a row is a whole number of quantisation blocks."""
    return base.in_features % base.weight.quant_state.blocksize == 0


def _rows_4bit(weight: Any, start: int, stop: int) -> Tensor:
    import bitsandbytes.functional as bnb

    state = weight.quant_state
    width = state.shape[1]
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
    part = copy.copy(state)
    part.absmax = absmax[start * width // state.blocksize : stop * width // state.blocksize].contiguous()
    part.nested, part.state2, part.offset = False, None, None
    part.shape = (stop - start, width)
    # two values a byte, whatever dtype the bytes are stored as
    packed = weight.data.reshape(-1).view(torch.uint8)[start * width // 2 : stop * width // 2].unsqueeze(1)
    return bnb.dequantize_4bit(packed, part)


def _rows_8bit(base: Any, start: int, stop: int) -> Tensor:
    weight, state = base.weight, base.state
    values = weight.data if state.CB is None else state.CB
    scales = weight.SCB if state.SCB is None else state.SCB
    return values[start:stop].float() * (scales[start:stop].float() / 127).unsqueeze(1)
