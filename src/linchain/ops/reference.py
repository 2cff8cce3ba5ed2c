"""The plain formulas, one line each: what tests compare with and readers trust. Not used by any model.

Everything is in PyTorch's orientation (x of shape (tokens, in), W of shape (out, in)) and in the dtype of the inputs; tests
call it in float64. Sources: LinChain, arXiv 2411.00039, eq. 5 and eqs. 9–11 with their order put right; Bone, arXiv
2409.15371 v3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor


def chain_product(factors: Sequence[Tensor], r: int) -> Tensor:
    """M = W_n … W_1, shape (r_n, r_0); the r×r identity for an empty chain."""
    identity = torch.eye(r, dtype=factors[0].dtype if factors else None)
    return reduce(lambda product, factor: factor @ product, factors, identity)


def delta_weight(a: Tensor, factors: Sequence[Tensor], b: Tensor, scaling: float) -> Tensor:
    """ΔW = s · B W_n … W_1 A, shape (out, in)."""
    return scaling * b @ chain_product(factors, a.shape[0]).to(a.dtype) @ a


def forward(x: Tensor, w: Tensor, a: Tensor, factors: Sequence[Tensor], b: Tensor, scaling: float) -> Tensor:
    """y = x Wᵀ + s · (((x Aᵀ) W_1ᵀ) … W_nᵀ) Bᵀ, shape (tokens, out)."""
    h = x @ a.T
    for factor in factors:
        h = h @ factor.T
    return x @ w.T + scaling * h @ b.T


def gradients(
    x: Tensor, grad_y: Tensor, a: Tensor, factors: Sequence[Tensor], b: Tensor, scaling: float
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Gradients at A, at each W_i and at B of a loss whose gradient at y is `grad_y` (tokens, out).

    With G = s·grad_yᵀ x (out, in), the gradient at ΔW/s: dA = (B M)ᵀ G, dB = G (M A)ᵀ,
    dW_i = (B W_n … W_{i+1})ᵀ G (W_{i-1} … W_1 A)ᵀ.
    """
    g = scaling * grad_y.T @ x
    r = a.shape[0]
    m = chain_product(factors, r).to(a.dtype)
    d_factors = []
    for i, factor in enumerate(factors):
        before = chain_product(factors[:i], r).to(a.dtype) @ a
        after = b @ chain_product(factors[i + 1 :], factor.shape[0]).to(a.dtype)
        d_factors.append(after.T @ g @ before.T)
    return (b @ m).T @ g, d_factors, g @ (m @ a).T


def bone_col_weight(weight: Tensor, blocks: Tensor) -> Tensor:
    """bone-col: W'_ac = W_ac (I + B_a) + B_a, block by block; weight (out, in), blocks (out/r, r, r). arXiv 2409.15371 v3."""
    return _bone_weight(weight, blocks, lambda a, c: blocks[a])


def bone_row_weight(weight: Tensor, blocks: Tensor) -> Tensor:
    """bone-row: W'_ac = W_ac (I + B_c) + B_c, block by block; weight (out, in), blocks (in/r, r, r). arXiv 2409.15371 v3."""
    return _bone_weight(weight, blocks, lambda a, c: blocks[c])


def bone_plain_weight(weight: Tensor, d: Tensor) -> Tensor:
    """MiSS, the later plain Bone: W'[o, i] = W[o, i] + D[i mod r, o]; weight (out, in), d (r, out)."""
    columns = [weight[:, i] + d[i % d.shape[0]] for i in range(weight.shape[1])]
    return torch.stack(columns, dim=1)


def _bone_weight(weight: Tensor, blocks: Tensor, block: Callable[[int, int], Tensor]) -> Tensor:
    r = blocks.shape[-1]
    identity = torch.eye(r, dtype=weight.dtype)
    rows = []
    for a in range(weight.shape[0] // r):
        row = weight[a * r : (a + 1) * r]
        tiles = [row[:, c * r : (c + 1) * r] @ (identity + block(a, c)) + block(a, c) for c in range(row.shape[1] // r)]
        rows.append(torch.cat(tiles, dim=1))
    return torch.cat(rows)
