"""A linear layer with a low-rank update: x is saved once and in its own dtype, and no second output is made.

PEFT's own forward makes, for every adapted module, a copy of x in the adapter's dtype, and a second tensor of the output's
size. Here x is saved as it came in: modules that share an input (q, k and v) share what is saved of it, and float32
adapters over a bfloat16 base do not turn it into float32.

Two ways to the same result. `add_update` adds to what any base layer gave out. `adapted_linear` takes the base's weight into
the same node of the graph: the update is written first, and the base's product is added onto it as it is stored, in the
forward and for the gradient at x, so that nothing of x's or the output's size is read and written once more.

The factors come from `linchain.ops.factors`, in the dtype of the products.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.precision import own_dtypes

# Bytes of a temporary that holds rows of the weight in a wider dtype: few enough to stay in a core's cache.
WIDENED_BYTES = 2 * 2**20


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dropout: float = 0.0
) -> Tensor:
    """x Wᵀ + bias + dropout(x) Aᵀ Bᵀ for a frozen W (LinChain, eq. 5).

    Args:
        x: (*, in).
        weight: W, (out, in), of x's dtype and without gradient, as is the bias.
        bias: (out,).
        a: W_n … W_1 A with the scale in it, (r, in), of x's dtype or of a wider one, in which all products are then done.
        b: (out, r), of a's dtype.
        dropout: Probability with which an element of x is dropped.

    Returns:
        (*, out), in x's dtype. Saved for the backward: x, x Aᵀ (*, r), a, b, the weight itself, and a byte an element of x
        where there is dropout.

    >>> adapted_linear(torch.ones(2, 4), torch.ones(8, 4), None, torch.ones(1, 4), torch.ones(8, 1))[0, 0]
    tensor(8.)
    """
    with own_dtypes(x):
        return _AdaptedLinear.apply(x, weight, bias, a, b, dropout)


def add_update(y: Tensor, x: Tensor, a: Tensor, b: Tensor, dropout: float = 0.0) -> Tensor:
    """y + dropout(x) Aᵀ Bᵀ, computed in y's dtype, and in place where autograd runs eagerly (LinChain, eq. 5).

    Args:
        y: The base layer's output, (*, out), given away.
        x: Its input, (*, in), in any dtype.
        a: W_n … W_1 A with the scale in it, (r, in), of y's dtype.
        b: (out, r), of y's dtype.
        dropout: Probability with which an element of x is dropped.

    Returns:
        (*, out). Saved for the backward: x, x Aᵀ (*, r), a, b, and a byte an element of x where there is dropout.

    >>> y = add_update(torch.zeros(2, 8), torch.ones(2, 4), torch.ones(1, 4), torch.ones(8, 1))
    >>> y.shape, float(y[0, 0])
    (torch.Size([2, 8]), 4.0)
    """
    if torch.compiler.is_compiling():  # the compiler makes its own kernels of the formula
        return y + F.linear(F.linear(F.dropout(x, dropout).to(y.dtype), a), b)
    with own_dtypes(y):
        return _AddUpdate.apply(y, x, a, b, dropout)


class _AddUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, x: Tensor, a: Tensor, b: Tensor, dropout: float) -> Tensor:
        ctx.mark_dirty(y)
        h = _low_rank(ctx, x, _rows(x).to(a.dtype), a, b, dropout)
        _rows(y).addmm_(h, b.T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        d_x, d_a, d_b = _update_backward(_rows(g), x, *saved, ctx.scale, ctx.needs_input_grad[1:4])
        return g, None if d_x is None else d_x.view(x.shape).to(x.dtype), d_a, d_b, None


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dropout: float) -> Tensor:
        rows = _rows(x).to(a.dtype)
        h = _low_rank(ctx, x, rows, a, b, dropout, weight)
        # y must own its memory, or autograd refuses what is added to it in place later
        y = x.new_empty(*x.shape[:-1], weight.shape[0])
        for chunk, dense in _chunks(weight, a.dtype):
            out = _rows(y)[:, chunk]
            part = out if out.dtype == a.dtype else None
            if bias is None:
                part = torch.mm(h, b[chunk].T, out=part)
            else:
                part = torch.addmm(bias[chunk].to(a.dtype), h, b[chunk].T, out=part)
            part.addmm_(rows, dense.T)
            if part.dtype != out.dtype:
                out.copy_(part)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, h, a, b, mask, weight = ctx.saved_tensors
        rows = _rows(g).to(a.dtype)
        needs_x, _, _, *needs = ctx.needs_input_grad[:5]
        d_x, d_a, d_b = _update_backward(rows, x, h, a, b, mask, ctx.scale, (needs_x, *needs))
        if d_x is not None:
            for chunk, dense in _chunks(weight, a.dtype):
                d_x.addmm_(rows[:, chunk], dense)
            d_x = d_x.view(x.shape).to(x.dtype)
        return d_x, None, None, d_a, d_b, None


def _low_rank(ctx, x: Tensor, rows: Tensor, a: Tensor, b: Tensor, dropout: float, *others: Tensor) -> Tensor:
    """h = dropout(x) Aᵀ, (tokens, r), for x as `rows` in the dtype of the products; and what the backward needs saved."""
    ctx.scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    kept, mask = torch.native_dropout(rows, dropout, True) if dropout else (rows, None)
    h = kept @ a.T
    ctx.save_for_backward(x, h, a, b, mask, *others)
    return h


def _update_backward(
    g: Tensor,
    x: Tensor,
    h: Tensor,
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    scale: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients at x (tokens, in), A and B, those that are needed, of the update alone, for g of shape (tokens, out)."""
    needs_x, needs_a, needs_b = needs
    d_x, d_a, d_b = None, None, None
    with own_dtypes(g):
        d_h = g @ b
        if needs_b:
            d_b = (h.T @ g).T  # the long side stays the inner loop's
        if needs_a:
            kept = _rows(x).to(a.dtype)
            if mask is not None:
                kept = torch.ops.aten.native_dropout_backward(kept, mask, scale)
            d_a = d_h.T @ kept
        if needs_x:
            d_x = d_h @ a
            if mask is not None:
                d_x = torch.ops.aten.native_dropout_backward(d_x, mask, scale)
    return d_x, d_a, d_b


def _chunks(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The weight in `dtype`: as it is, or so many of its rows at a time that a widened copy stays small."""
    if weight.dtype == dtype:
        yield slice(None), weight
        return
    step = max(1, WIDENED_BYTES // (weight.shape[1] * dtype.itemsize))
    for start in range(0, weight.shape[0], step):
        yield slice(start, start + step), weight[start : start + step].to(dtype)


def _rows(x: Tensor) -> Tensor:
    """(*, width) as (tokens, width)."""
    return x.reshape(-1, x.shape[-1])
