"""A linear layer's two low-rank factors, made ready for its products, and the gradients of their masters.

The masters A, W_1 … W_n and B may be wider than the layer computes in. Its products read A' = s · W_n … W_1 A and B, each
rounded once to the layer's dtype. With a chain or without, that is a single kernel each way on a GPU (`triton_chain`), and a
few small products elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from linchain.ops import triton_chain
from linchain.ops.chain import fold, fold_backward, prefixes, scaled_product, stack, unstack, widened


class Factors(NamedTuple):
    """The update s · B W_n … W_1 A of a linear layer (LinChain, arXiv 2411.00039, eq. 5, transposed).

    Attributes:
        a: A, (r_0, in).
        b: B, (out, r_n).
        scaling: s.
        chain: W_1 … W_n in the order in which they are applied, W_i (r_i, r_{i-1}).
        stacked: `chain` is one tensor (r, n, r) instead, W_i being chain[:, i-1, :].
    """

    a: Tensor
    b: Tensor
    scaling: float = 1.0
    chain: Sequence[Tensor] = ()
    stacked: bool = False

    @property
    def matrices(self) -> Sequence[Tensor]:
        """W_1 … W_n."""
        return unstack(self.chain[0]) if self.stacked else self.chain


def folded(factors: Factors, dtype: torch.dtype) -> Factors:
    """The same update by two factors alone: A' = s · W_n … W_1 A and B in `dtype`; differentiable.

    >>> one = folded(Factors(torch.ones(2, 8), torch.ones(4, 2), 0.5, [torch.ones(2, 2)]), torch.bfloat16)
    >>> one.a.shape, one.b.shape, float(one.a[0, 0])
    (torch.Size([2, 8]), torch.Size([4, 2]), 1.0)
    """
    a = fold(factors.a, factors.matrices)
    return Factors((a if factors.scaling == 1 else a * factors.scaling).to(dtype), factors.b.to(dtype))


class Ready(NamedTuple):
    """What the products of a layer read, and what `masters_gradients` wants kept.

    Attributes:
        a: A' = s · W_n … W_1 A, (r_n, in).
        b: B, (out, r_n).
        kept: The chain's prefixes W_1, W_2 W_1, …; in one tensor where a GPU kernel made them.
        in_one_launch: Whether one did.
    """

    a: Tensor
    b: Tensor
    kept: Sequence[Tensor]
    in_one_launch: bool = False


def ready(factors: Factors, dtype: torch.dtype) -> Ready:
    """`folded` outside of autograd: in float32, or float64 where A is, and both factors rounded once to `dtype`."""
    a, b, scaling, chain, stacked = factors
    if not chain and scaling == 1 and a.dtype == b.dtype == dtype:
        return Ready(a, b, ())  # nothing is to be done
    square = chain[0] if stacked else None
    if (stacked or not chain) and triton_chain.usable(a, square, b):
        a, b, kept = triton_chain.forward(a, square, b, scaling, dtype)
        return Ready(a, b, () if kept is None else (kept,), True)
    products: Sequence[Tensor] = ()
    if chain:
        products = prefixes([widened(matrix) for matrix in factors.matrices])
        a = scaled_product(products[-1], widened(a), scaling)
    elif scaling != 1:
        a = widened(a) * scaling
    return Ready(a.to(dtype), b.to(dtype), products)


def masters_gradients(
    factors: Factors, kept: Sequence[Tensor], in_one_launch: bool, d_a: Tensor | None, d_b: Tensor | None
) -> list[Tensor | None]:
    """Gradients at A, B and every tensor of `factors.chain`, in their dtypes.

    Args:
        factors: As given to `ready`.
        kept, in_one_launch: As `ready` gave them.
        d_a: The gradient at A', (r_n, in), in any dtype; None leaves A and the chain without one.
        d_b: The gradient at B as the products read it, (out, r_n), in any dtype; None leaves B without one.
    """
    a, b, scaling, chain, stacked = factors
    if in_one_launch and d_a is not None and d_b is not None:
        square, prefixes_kept = (chain[0], kept[0]) if chain else (None, None)
        at_a, at_chain, at_b = triton_chain.backward(a, square, prefixes_kept, scaling, d_a, d_b, b.dtype)
        return [at_a, at_b] if at_chain is None else [at_a, at_b, at_chain]
    # made row-major while it is widened, which autograd would do in an operation of its own
    grad_b = None if d_b is None else d_b.to(b.dtype, memory_format=torch.contiguous_format)
    if d_a is None:
        return [None, grad_b, *(None for _ in chain)]
    wide = widened(a)
    d_a = d_a.to(wide.dtype)
    if not chain:
        return [(d_a if scaling == 1 else d_a * scaling).to(a.dtype), grad_b]
    matrices = [widened(matrix) for matrix in factors.matrices]
    products = triton_chain.kept_prefixes(kept[0], len(a)) if in_one_launch else kept
    grad_a, *grads = fold_backward(wide, matrices, products, d_a, scaling)
    if stacked:
        grads = [stack(grads)]
    return [grad_a.to(a.dtype), grad_b, *(grad.to(t.dtype) for grad, t in zip(grads, chain, strict=True))]
