"""A linear layer's two low-rank factors, made ready for its products.

The masters A, W_1 … W_n and B may be wider than the layer computes in. Its products read A' = s · W_n … W_1 A and B, each
rounded once to the layer's dtype. All of that is one node of the graph, with a chain or without: each way a single kernel on a
GPU (`triton_chain`), and a few small products elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.chain import fold, fold_backward, prefixes, scaled_product, stack, unstack, widened
from linchain.ops.precision import own_dtypes


def ready_factors(
    a: Tensor, chain: Sequence[Tensor] | Tensor, b: Tensor, scaling: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A' = s · W_n … W_1 A and B, both in the dtype of the products (LinChain, arXiv 2411.00039, eq. 5, transposed).

    Args:
        a: A, (r_0, in).
        chain: A square chain stacked, (r, n, r), or W_1 … W_n in the order in which they are applied, W_i (r_i, r_{i-1}).
        b: B, (out, r_n).
        scaling: s.
        dtype: What both are rounded to, once. The chain is folded in float32, or in float64 where A is.

    Returns:
        A', (r_n, in), and B, (out, r_n). Saved for the backward: the masters, and the chain's small prefixes.

    >>> a, b = ready_factors(torch.ones(2, 8), torch.ones(2, 3, 2), torch.ones(4, 2), 0.5, torch.bfloat16)
    >>> a.shape, b.shape, float(a[0, 0])
    (torch.Size([2, 8]), torch.Size([4, 2]), 4.0)
    """
    stacked = isinstance(chain, Tensor)
    tensors: Sequence[Tensor] = [chain] if isinstance(chain, Tensor) else chain
    if torch.compiler.is_compiling():  # the compiler makes its own kernels of the formula
        return (fold(a, _matrices(tensors, stacked)) * scaling).to(dtype), b.to(dtype)
    with own_dtypes(a):
        return _ReadyFactors.apply(scaling, dtype, stacked, a, b, *tensors)


class _ReadyFactors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, scaling: float, dtype: torch.dtype, stacked: bool, a: Tensor, b: Tensor, *chain: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.scaling, ctx.stacked, ctx.length, ctx.b_dtype = scaling, stacked, len(chain), b.dtype
        wide, factors = widened(a), [widened(factor) for factor in _matrices(chain, stacked)]
        products = prefixes(factors) if factors else []
        # the first prefix is W_1 itself
        ctx.save_for_backward(a, *chain, *products[1:])
        folded = scaled_product(products[-1], wide, scaling) if factors else wide * scaling
        ready = folded.to(dtype), b.to(dtype)
        _, _, _, needs_a, needs_b, *needs_chain = ctx.needs_input_grad
        ctx.mark_non_differentiable(
            *(t for t, needed in zip(ready, (needs_a or any(needs_chain), needs_b), strict=True) if not needed)
        )
        return ready

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, d_b: Tensor | None) -> tuple[Tensor | None, ...]:
        a, *saved = ctx.saved_tensors
        chain, products = saved[: ctx.length], saved[ctx.length :]
        d_a: Tensor | None = None
        d_chain: Sequence[Tensor | None] = [None] * ctx.length
        if grad is not None:
            wide, factors = widened(a), [widened(factor) for factor in _matrices(chain, ctx.stacked)]
            with own_dtypes(a):
                grad = grad.to(wide.dtype)
                if factors:
                    d_a, *d_factors = fold_backward(wide, factors, [factors[0], *products], grad, ctx.scaling)
                    d_factors = [stack(d_factors)] if ctx.stacked else d_factors
                    d_chain = [d.to(factor.dtype) for d, factor in zip(d_factors, chain, strict=True)]
                else:
                    d_a = grad * ctx.scaling
                d_a = d_a.to(a.dtype)
        return None, None, None, d_a, None if d_b is None else d_b.to(ctx.b_dtype), *d_chain


def _matrices(chain: Sequence[Tensor], stacked: bool) -> Sequence[Tensor]:
    """W_1 … W_n of a chain that is one stacked tensor or n of them."""
    return unstack(chain[0]) if stacked else chain
