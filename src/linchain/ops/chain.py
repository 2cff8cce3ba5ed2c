"""The chain: fold its small matrices into A, and send the gradient back to each of them.

Orientation is PyTorch's: A has shape (r_0, in), factor i has shape (r_i, r_{i-1}), and the update is
`scaling * B @ (W_n … W_1 A)` (LinChain, arXiv 2411.00039, eq. 5, transposed).

Folding is done in float32 at least, with autocast off: r×r products in bfloat16 lose small factors, float32 ones have an
error that does not grow with the chain's length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from linchain.ops.precision import own_dtypes

LOW_PRECISION = (torch.bfloat16, torch.float16)


def stack(factors: Sequence[Tensor]) -> Tensor:
    """W_1 … W_n of a square chain, each (*e, r, r), as one tensor (*e, r, n, r): how a chain is kept and saved.

    Not with n in front: to PEFT, the first dimension of whatever lies at `lora_A` is the rank.
    """
    return torch.stack(tuple(factors), dim=-2)


def unstack(chain: Tensor) -> list[Tensor]:
    """The views W_1 … W_n, each (*e, r, r), of a chain (*e, r, n, r)."""
    return list(chain.unbind(-2))


def fold(a: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Return W_n … W_1 A, differentiable in A and in every factor.

    Args:
        a: A, shape (*e, r_0, in). Leading dimensions `e` (experts) are batch dimensions.
        factors: W_1 … W_n in the order in which they are applied, W_i of shape (*e, r_i, r_{i-1}).

    Returns:
        Shape (*e, r_n, in), in A's dtype, but float32 where A is bfloat16 or float16: the caller rounds once.
        Without factors, `a` itself.

    >>> a, w1, w2 = torch.ones(8, 64), torch.ones(16, 8), torch.ones(4, 16)
    >>> fold(a, [w1, w2]).shape
    torch.Size([4, 64])
    """
    if not factors:
        return a
    with own_dtypes(a):
        a, *factors = map(widened, (a, *factors))
        if torch.compiler.is_compiling():  # what it should keep for the backward, the compiler finds itself
            return prefixes(factors)[-1] @ a
        return _Fold.apply(a, *factors)


def prefixes(factors: Sequence[Tensor]) -> list[Tensor]:
    """W_1, W_2 W_1, …, W_n … W_1: the partial products from A's side, shapes (*e, r_i, r_0)."""
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(factor @ products[-1])
    return products


def scaled_product(p: Tensor, q: Tensor, scaling: float) -> Tensor:
    """s · P Q of two matrices (batches of them where s is 1), the scale inside the product: no operation of its own."""
    return p @ q if scaling == 1 else torch.addmm(p.new_empty(1), p, q, beta=0, alpha=scaling)


def widened(t: Tensor) -> Tensor:
    """`t` in a dtype in which a chain may be folded: float32 where it is bfloat16 or float16."""
    return t.float() if t.dtype in LOW_PRECISION else t


def fold_backward(
    a: Tensor, factors: Sequence[Tensor], products: Sequence[Tensor], grad: Tensor, scaling: float = 1.0
) -> list[Tensor]:
    """Gradients of a function of s · `fold(a, factors)`.

    With P_i = W_i … W_1, M = P_n and G the gradient at s M A: dA = s Mᵀ G, dM = s G Aᵀ,
    dW_i = (W_n … W_{i+1})ᵀ dM P_{i-1}ᵀ (LinChain's eqs. 9–11 with the order put right).

    Args:
        a: A, shape (*e, r_0, in).
        factors: W_i, shapes (*e, r_i, r_{i-1}).
        products: `prefixes(factors)`.
        grad: G, shape (*e, r_n, in).
        scaling: s; 1 where there are leading dimensions.

    Returns:
        [dA, dW_1, …, dW_n], shaped as the inputs.
    """
    d_a = scaled_product(products[-1].mT, grad, scaling)
    # walks from B's side to A's: `d_suffix` is (W_n … W_{i+1})ᵀ dM when factor i is reached
    d_suffix = scaled_product(grad, a.mT, scaling)
    d_factors: list[Tensor] = []
    for i in range(len(factors) - 1, 0, -1):
        d_factors.append(d_suffix @ products[i - 1].mT)
        d_suffix = factors[i].mT @ d_suffix
    d_factors.append(d_suffix)
    return [d_a, *reversed(d_factors)]


class _Fold(torch.autograd.Function):
    """`fold` with its own backward: it keeps the prefixes (n·r² numbers), and nothing of A's size but A itself."""

    @staticmethod
    def forward(ctx, a: Tensor, *factors: Tensor) -> Tensor:
        products = prefixes(factors)
        # the first prefix is W_1 itself
        ctx.save_for_backward(a, *factors, *products[1:])
        ctx.chain_length = len(factors)
        return products[-1] @ a

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        a, *saved = ctx.saved_tensors
        factors, products = saved[: ctx.chain_length], [saved[0], *saved[ctx.chain_length :]]
        with own_dtypes(a):
            return tuple(fold_backward(a, factors, products, grad))
