"""Bone's block-affine updates: what they do around a base layer that is called, and the dense weights that merging needs.

A weight W (out, in) is cut into r×r blocks W_ac (a: output block, c: input block); with J = in/r and O = out/r,

- col:   W'_ac = W_ac (I + B_a) + B_a, one block a row of blocks, B of shape (O, r, r);
- row:   W'_ac = W_ac (I + B_c) + B_c, one block a column of blocks, B of shape (J, r, r);
- plain: W'_ac = W_ac + D_aᵀ, without the weight's guidance, D of shape (r, out); `in` need not be divisible by r.

col and row are the two forms of Bone (arXiv 2409.15371 v3, "block affine"), plain is what its later versions call MiSS.

Over a bfloat16 or float16 weight the blocks stay float32 masters. What B adds by itself (the `+ B`) is computed from Σ_c x_c
and added to the output, because in a rounded W' a small B would be lost; what it multiplies is rounded as the weight itself is.

`block_linear` has the layers that read the weight instead of calling the base layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.precision import own_dtypes
from linchain.ops.products import as_rows


def sum_tiles(x: Tensor, r: int) -> Tensor:
    """Σ_c x_c: the sum of the r-wide tiles of the last dimension, in x's dtype; a last tile that is short counts as padded.

    >>> sum_tiles(torch.arange(5.0), 2)
    tensor([6., 4.])
    """
    whole = x.shape[-1] // r * r
    total = x[..., :whole].unflatten(-1, (-1, r)).sum(-2)
    if whole == x.shape[-1]:
        return total
    return total + torch.nn.functional.pad(x[..., whole:], (0, r - x.shape[-1] + whole))


def add_low_rank(y: Tensor, s: Tensor, d: Tensor) -> Tensor:
    """y + s D, in place where autograd runs eagerly: no second tensor of the output's size.

    Args:
        y: (*, out), given away.
        s: (*, r), in y's dtype.
        d: (r, out), in y's dtype.
    """
    if torch.compiler.is_compiling():
        return y + s @ d
    with own_dtypes(y):
        return _AddLowRank.apply(y, s, d)


def add_tiled(y: Tensor, s: Tensor) -> Tensor:
    """y with s (*, r) added to every r-wide tile of its last dimension; in place where autograd runs eagerly."""
    if torch.compiler.is_compiling():
        return (y.unflatten(-1, (-1, s.shape[-1])) + s.unsqueeze(-2)).flatten(-2)
    return _AddTiled.apply(y, s)


def row_mix(x: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """What bone-row gives to the base layer and adds to its output: y = base(x + z) + tile(Σ_c z_c) with z_c = B_c x_c.

    Args:
        x: (*, in).
        blocks: B, (in/r, r, r), of x's dtype or wider.

    Returns:
        x + z, (*, in), and Σ_c z_c, (*, r), both in x's dtype. Only x and B are saved for the backward.
    """
    with own_dtypes(x):
        return _RowMix.apply(x, blocks)


def adapted_weight(weight: Tensor, blocks: Tensor, form: str) -> Tensor:
    """W' of shape (out, in), differentiable, in the wider of the two dtypes.

    Args:
        weight: W, (out, in).
        blocks: B as in the module's docstring, for `form` "col", "row" or "plain".
    """
    dtype = torch.promote_types(weight.dtype, blocks.dtype)
    weight, blocks = weight.to(dtype), blocks.to(dtype)
    if form == "plain":
        repeats = -(-weight.shape[1] // blocks.shape[0])
        return weight + blocks.T.repeat(1, repeats)[:, : weight.shape[1]]
    r = blocks.shape[-1]
    if form == "col":
        tiles = weight.reshape(blocks.shape[0], -1, r)  # (O, r·J, r)
        moved = torch.baddbmm(tiles, tiles, blocks).unflatten(1, (r, -1)) + blocks.unsqueeze(2)
        return moved.reshape(weight.shape)
    tiles = weight.reshape(-1, r, blocks.shape[0], r)  # (O, r, J, r)
    moved = torch.einsum("oijk,jkl->oijl", tiles, blocks) + tiles + blocks.transpose(0, 1)
    return moved.reshape(weight.shape)


def original_weight(adapted: Tensor, blocks: Tensor, form: str) -> Tensor:
    """W from W': W_ac = (W'_ac − B)(I + B)⁻¹ (plain: W'_ac − D_aᵀ), solved and returned in the wider of the two dtypes.

    Shapes as in `adapted_weight`. The error grows with `condition`.
    """
    if form == "plain":
        return adapted_weight(adapted, -blocks, form)
    dtype = torch.promote_types(adapted.dtype, blocks.dtype)
    adapted, blocks = adapted.to(dtype), blocks.to(dtype)
    r = blocks.shape[-1]
    moved = torch.eye(r, dtype=dtype, device=blocks.device) + blocks
    if form == "col":
        tiles = adapted.reshape(blocks.shape[0], r, -1, r) - blocks.unsqueeze(2)
        solved = torch.linalg.solve(moved, tiles.flatten(1, 2), left=False)
        return solved.reshape(adapted.shape)
    tiles = adapted.reshape(-1, r, blocks.shape[0], r) - blocks.transpose(0, 1)
    solved = torch.linalg.solve(moved, tiles.permute(2, 0, 1, 3).flatten(1, 2), left=False)
    return solved.unflatten(1, (-1, r)).permute(1, 2, 0, 3).reshape(adapted.shape)


def condition(blocks: Tensor) -> float:
    """The largest condition number (2-norm) of I + B over the blocks B, (blocks, r, r); in float32 or wider."""
    blocks = blocks.to(torch.promote_types(blocks.dtype, torch.float32))
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return float(torch.linalg.cond(eye + blocks).max())


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, s: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(s, d)
        ctx.mark_dirty(y)
        y.view(-1, y.shape[-1]).addmm_(s.reshape(-1, s.shape[-1]), d)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s, d = ctx.saved_tensors
        with own_dtypes(g):
            return g, g @ d.T, s.reshape(-1, s.shape[-1]).T @ g.reshape(-1, g.shape[-1])


class _AddTiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, s: Tensor) -> Tensor:
        ctx.r = s.shape[-1]
        ctx.mark_dirty(y)
        y.unflatten(-1, (-1, ctx.r)).add_(s.unsqueeze(-2))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        return g, sum_tiles(g, ctx.r)


class _RowMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, blocks)
        mixed, total = mix(as_rows(x), blocks.to(x.dtype))
        return mixed.view(x.shape), total.view(*x.shape[:-1], blocks.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, v: Tensor, d_total: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, blocks = ctx.saved_tensors
        with own_dtypes(x):
            d_x, d_blocks = mix_backward(
                as_rows(x), blocks.to(x.dtype), as_rows(v), as_rows(d_total), ctx.needs_input_grad
            )
        d_x = None if d_x is None else d_x.view(x.shape)
        return d_x, None if d_blocks is None else d_blocks.to(blocks.dtype)


def mix(x: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """x + z, (tokens, in), and Σ_c z_c, (tokens, r), for z_c = B_c x_c and x (tokens, in) of the blocks' dtype."""
    tiles = _tiles(x, blocks)
    z = torch.bmm(tiles, blocks.mT)
    total = z.sum(0)
    return _untiled(z.add_(tiles)), total


def mix_backward(
    x: Tensor, blocks: Tensor, v: Tensor, d_total: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients at x and the blocks, as needed, from those at `mix`'s results: v (tokens, in) and d_total (tokens, r)."""
    v_tiles = _tiles(v, blocks)
    d_z = v_tiles + d_total
    d_x = _untiled(torch.baddbmm(v_tiles, d_z, blocks)) if needs[0] else None
    return d_x, torch.bmm(d_z.mT, _tiles(x, blocks)) if needs[1] else None


def _tiles(x: Tensor, blocks: Tensor) -> Tensor:
    """x (tokens, in) as a batch of its tiles: a view (J, tokens, r)."""
    return x.unflatten(-1, (blocks.shape[0], blocks.shape[-1])).transpose(0, 1)


def _untiled(tiles: Tensor) -> Tensor:
    return tiles.transpose(0, 1).flatten(1)
