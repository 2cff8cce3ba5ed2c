"""The low-rank update of a linear layer's output, added in place, with x saved once and in its own dtype.

PEFT's own forward makes, for every adapted module, a copy of x in the adapter's dtype, and a second tensor of the output's
size. Here x is saved as it came in: modules that share an input (q, k and v) share what is saved of it, and float32
adapters over a bfloat16 base do not turn it into float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.precision import own_dtypes


def add_update(y: Tensor, x: Tensor, a: Tensor, b: Tensor, dropout: float = 0.0) -> Tensor:
    """y + dropout(x) Aᵀ Bᵀ, computed in y's dtype, and in place where autograd runs eagerly (LinChain, eq. 5).

    Args:
        y: The base layer's output, (*, out), given away.
        x: Its input, (*, in).
        a: W_n … W_1 A with the scale in it, (r, in), of y's dtype or wider: rounded once, here.
        b: (out, r), of y's dtype or wider.
        dropout: Probability with which an element of x is dropped.

    Returns:
        (*, out). Saved for the backward: x, x Aᵀ (*, r), a, b, and a byte an element of x where there is dropout.

    >>> y = add_update(torch.zeros(2, 8), torch.ones(2, 4), torch.ones(1, 4), torch.ones(8, 1))
    >>> y.shape, float(y[0, 0])
    (torch.Size([2, 8]), 4.0)
    """
    if torch.compiler.is_compiling():  # the compiler makes its own kernels of the formula
        x = F.dropout(x, dropout).to(y.dtype)
        return y + F.linear(F.linear(x, a.to(y.dtype)), b.to(y.dtype))
    with own_dtypes(y):
        return _AddUpdate.apply(y, x, a, b, dropout)


class _AddUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, x: Tensor, a: Tensor, b: Tensor, dropout: float) -> Tensor:
        ctx.mark_dirty(y)
        ctx.scale = 1 / (1 - dropout) if dropout < 1 else 0.0
        kept, mask = torch.native_dropout(x, dropout, True) if dropout else (x, None)
        h = F.linear(kept.to(y.dtype), a.to(y.dtype))
        ctx.save_for_backward(x, h, a, b, mask)
        y.view(-1, y.shape[-1]).addmm_(h.view(-1, h.shape[-1]), b.to(y.dtype).T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, h, a, b, mask = ctx.saved_tensors
        _, needs_x, needs_a, needs_b, _ = ctx.needs_input_grad
        rows = g.reshape(-1, g.shape[-1])
        with own_dtypes(g):
            d_h = rows @ b.to(g.dtype)
            # (hᵀ g)ᵀ: the long side stays the inner loop's
            d_b = (h.view(-1, h.shape[-1]).T @ rows).T.to(b.dtype) if needs_b else None
            d_a, d_x = None, None
            if needs_a:
                kept = x if mask is None else torch.ops.aten.native_dropout_backward(x, mask, ctx.scale)
                d_a = (d_h.T @ kept.reshape(-1, x.shape[-1]).to(g.dtype)).to(a.dtype)
            if needs_x:
                d_x = (d_h @ a.to(g.dtype)).view(x.shape).to(x.dtype)
                if mask is not None:
                    d_x = torch.ops.aten.native_dropout_backward(d_x, mask, ctx.scale)
        return g, d_x, d_a, d_b, None
