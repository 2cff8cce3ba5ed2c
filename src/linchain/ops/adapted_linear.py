"""A linear layer with a low-rank update: x is saved once and in its own dtype, and no second output is made.

PEFT's own forward makes, for every adapted module, a copy of x in the adapter's dtype, and a second tensor of the output's
size. Here x is saved as it came in: modules that share an input (q, k and v) share what is saved of it, and float32
adapters over a bfloat16 base do not turn it into float32.

Two ways to the same result. `add_update` adds to what any base layer gave out. `adapted_linear` takes the base's weight into
the same node of the graph and adds its products onto the update (`products`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.factors import Factors, folded, masters_gradients, ready
from linchain.ops.precision import has_many_tokens, own_dtypes, product_dtype
from linchain.ops.products import as_rows, input_gradient, linear_onto, low_rank


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors, dropout: float = 0.0) -> Tensor:
    """x Wᵀ + bias + s · dropout(x) (B W_n … W_1 A)ᵀ for a frozen W (LinChain, arXiv 2411.00039, eq. 5).

    Args:
        x: (*, in).
        weight: W, (out, in), of x's dtype and without gradient, as is the bias.
        bias: (out,).
        factors: In any dtype. They are folded in float32 or wider, and rounded once to the dtype of the products: x's, or
            float32 on a processor that only emulates that.
        dropout: Probability with which an element of x is dropped.

    Returns:
        (*, out), in x's dtype. Saved for the backward: x and what the layer has anyway (its weight and the factors);
        x A'ᵀ (*, r), the factors as the products read them, and the chain's n prefixes (r, r); and a byte an element of x
        where there is dropout.

    >>> adapted_linear(torch.ones(2, 4), torch.ones(8, 4), None, Factors(torch.ones(1, 4), torch.ones(8, 1)))[0, 0]
    tensor(8.)
    """
    with own_dtypes(x):
        if not (torch.is_grad_enabled() or dropout or has_many_tokens(x)):
            # a generated token costs little more than its Python: the fewest calls
            a, b, *_ = ready(factors, x.dtype)
            y = F.linear(x, weight, bias)
            y.view(-1, y.shape[-1]).addmm_(F.linear(as_rows(x), a), b.T)
            return y
        a, b, scaling, chain, stacked = factors
        return _AdaptedLinear.apply(x, weight, bias, dropout, scaling, stacked, a, b, *chain)


def add_update(y: Tensor, x: Tensor, factors: Factors, dropout: float = 0.0) -> Tensor:
    """y + s · dropout(x) (B W_n … W_1 A)ᵀ in y's dtype, and in place where autograd runs eagerly (LinChain, eq. 5).

    Args:
        y: The base layer's output, (*, out), given away.
        x: Its input, (*, in), in any dtype.
        factors: In any dtype; folded in float32 or wider, and rounded once to y's.
        dropout: Probability with which an element of x is dropped.

    Returns:
        (*, out). Saved for the backward: as by `adapted_linear`, without the weight.

    >>> y = add_update(torch.zeros(2, 8), torch.ones(2, 4), Factors(torch.ones(1, 4), torch.ones(8, 1)))
    >>> y.shape, float(y[0, 0])
    (torch.Size([2, 8]), 4.0)
    """
    if torch.compiler.is_compiling():  # the compiler makes its own kernels of the formula
        one = folded(factors, y.dtype)
        return y + F.linear(F.linear(F.dropout(x, dropout).to(y.dtype), one.a), one.b)
    with own_dtypes(y):
        a, b, scaling, chain, stacked = factors
        return _AddUpdate.apply(y, x, dropout, scaling, stacked, a, b, *chain)


class _AddUpdate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, y: Tensor, x: Tensor, dropout: float, scaling: float, stacked: bool, a: Tensor, b: Tensor, *chain: Tensor
    ) -> Tensor:
        ctx.mark_dirty(y)
        _, h, b = _low_rank(ctx, x, y.dtype, dropout, Factors(a, b, scaling, chain, stacked))
        y.view(-1, y.shape[-1]).addmm_(h, b.T)  # a view: what is added to a copy would be lost
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        d_x, masters = _low_rank_backward(ctx, as_rows(g), ctx.saved_tensors, ctx.needs_input_grad[1])
        if d_x is not None:
            d_x = d_x.view(ctx.shape).to(ctx.dtype)
        return g, d_x, None, None, None, *masters


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dropout: float,
        scaling: float,
        stacked: bool,
        a: Tensor,
        b: Tensor,
        *chain: Tensor,
    ) -> Tensor:
        tokens, h, b = _low_rank(ctx, x, product_dtype(x), dropout, Factors(a, b, scaling, chain, stacked), weight)
        return linear_onto(x, tokens, weight, low_rank(h, b, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        g = as_rows(g).to(ctx.products)
        d_x, masters = _low_rank_backward(ctx, g, saved, ctx.needs_input_grad[0])
        if d_x is not None:
            d_x = input_gradient(g, weight, onto=d_x).view(ctx.shape).to(ctx.dtype)
        return d_x, None, None, None, None, None, *masters


def _low_rank(
    ctx: Any, x: Tensor, dtype: torch.dtype, dropout: float, factors: Factors, *first: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x (tokens, in), h = dropout(x) A'ᵀ (tokens, r) and B, all in `dtype`.

    What `_low_rank_backward` needs is saved, after what the caller wants saved `first`.
    """
    a, b, kept, ctx.in_one_launch = ready(factors, dtype)
    trained = any(ctx.needs_input_grad[-2 - len(factors.chain) :])
    tokens = as_rows(x).to(dtype)
    dropped, mask = torch.native_dropout(tokens, dropout, True) if dropout else (tokens, None)
    h = dropped @ a.T
    ctx.shape, ctx.dtype, ctx.products = x.shape, x.dtype, dtype
    ctx.dropout_scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    ctx.scaling, ctx.stacked, ctx.length = factors.scaling, factors.stacked, len(factors.chain)
    of_training = (x, h) if trained else (None, None)  # a frozen adapter passes on x's gradient alone
    ctx.save_for_backward(*first, *of_training, mask, a, b, factors.a, factors.b, *factors.chain, *kept)
    return tokens, h, b


def _low_rank_backward(
    ctx: Any, g: Tensor, saved: Sequence[Tensor], needs_x: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the update alone, at x (tokens, in) and the masters, for g (tokens, out) in the dtype of the products."""
    x, h, mask, a, b, master_a, master_b, *rest = saved
    needs_a, needs_b, *needs_chain = ctx.needs_input_grad[-2 - ctx.length :]
    d_x, d_a, d_b = None, None, None
    with own_dtypes(g):
        d_h = g @ b
        if needs_b:
            d_b = (h.T @ g).T  # the long side stays the inner loop's
        if needs_a or any(needs_chain):
            kept = as_rows(x).to(g.dtype)
            if mask is not None:
                kept = torch.ops.aten.native_dropout_backward(kept, mask, ctx.dropout_scale)
            d_a = d_h.T @ kept
        if needs_x:
            d_x = d_h @ a
            if mask is not None:
                d_x = torch.ops.aten.native_dropout_backward(d_x, mask, ctx.dropout_scale)
        factors = Factors(master_a, master_b, ctx.scaling, rest[: ctx.length], ctx.stacked)
        return d_x, masters_gradients(factors, rest[ctx.length :], ctx.in_one_launch, d_a, d_b)
