"""Bone's layers that read the frozen weight instead of calling the base layer (`block_affine` has the formulas).

Nothing here keeps a tensor of the weight's size for the backward: that of x and of the blocks is all that is saved. row and
plain add the weight's product onto their update (`products`). col builds its adapted weight in the forward and anew in the
backward, so many output blocks at a time; its gradient needs dW = gᵀx, so full fine-tuning's matrix products are its floor.

All products are done in x's dtype, or in float32 on a processor that only emulates that; blocks may be wider than either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linchain.ops.block_affine import mix, mix_backward, sum_tiles
from linchain.ops.precision import own_dtypes, product_dtype
from linchain.ops.products import as_rows, input_gradient, linear_onto, low_rank, row_chunks

# Bytes of a temporary that holds rows of the weight, dense or adapted, or of the gradient at them (col), by device: a GPU
# wants large products, on a CPU small ones take no longer.
CHUNK_BYTES = {"cpu": 8 * 2**20}
CHUNK_BYTES_ELSEWHERE = 128 * 2**20

# Reads dense rows [start, stop) of a quantised weight, shape (stop - start, in).
Rows = Callable[[int, int], Tensor]


def col_linear(
    x: Tensor, blocks: Tensor, weight: Tensor | None, bias: Tensor | None = None, rows: Rows | None = None
) -> Tensor:
    """A linear layer with bone-col's weight: y_a = Σ_c W_ac (I + B_a) x_c + B_a Σ_c x_c (+ bias).

    Args:
        x: (*, in), of the weight's dtype.
        blocks: B, (out/r, r, r), of that dtype or wider.
        weight: W, (out, in); None where `rows` reads it.
        bias: (out,), of the weight's dtype.
        rows: Reads rows of W instead, a chunk at a time: for weights that are stored quantised.

    Returns:
        (*, out), in x's dtype. Saved for the backward: x, B and, as by any linear layer, the weight itself.
    """
    with own_dtypes(x):
        return _ColLinear.apply(x, blocks, weight, bias, rows)


def row_linear(x: Tensor, blocks: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer with bone-row's weight: y = W (x + z) + tile(Σ_c z_c) (+ bias) with z_c = B_c x_c.

    Args:
        x: (*, in).
        blocks: B, (in/r, r, r), of x's dtype or wider.
        weight: W, (out, in), of x's dtype and without gradient, as is the bias; r divides out.
        bias: (out,).

    Returns:
        (*, out), in x's dtype. Saved for the backward: x, B and the weight itself.
    """
    with own_dtypes(x):
        return _RowLinear.apply(x, blocks, weight, bias)


def plain_linear(x: Tensor, d: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer with the weight of MiSS: y = W x + Dᵀ Σ_c x_c (+ bias).

    Args:
        x: (*, in).
        d: D, (r, out), of x's dtype or wider.
        weight: W, (out, in), of x's dtype and without gradient, as is the bias.
        bias: (out,).

    Returns:
        (*, out), in x's dtype. Saved for the backward: Σ_c x_c (*, r), D and the weight itself.
    """
    with own_dtypes(x):
        return _PlainLinear.apply(x, d, weight, bias)


class _RowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, blocks: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, blocks, weight)
        dtype, r = product_dtype(x), blocks.shape[-1]
        mixed, total = mix(as_rows(x).to(dtype), blocks.to(dtype))

        def write(part: Tensor, chunk: slice | None) -> None:
            tiles = part.unflatten(-1, (-1, r))
            tiles.copy_(total.unsqueeze(-2).expand_as(tiles))
            if bias is not None:
                part += bias if chunk is None else bias[chunk]

        return linear_onto(x, mixed, weight, write, multiple=r)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, blocks, weight = ctx.saved_tensors
        dtype = product_dtype(x)
        with own_dtypes(g):
            g = as_rows(g).to(dtype)
            v, d_total = input_gradient(g, weight), sum_tiles(g, blocks.shape[-1])
            d_x, d_blocks = mix_backward(as_rows(x).to(dtype), blocks.to(dtype), v, d_total, ctx.needs_input_grad)
        d_x = None if d_x is None else d_x.view(x.shape).to(x.dtype)
        return d_x, None if d_blocks is None else d_blocks.to(blocks.dtype), None, None


class _PlainLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, d: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = product_dtype(x)
        tokens = as_rows(x).to(dtype)
        s, narrow = sum_tiles(tokens, d.shape[0]), d.to(dtype)
        ctx.save_for_backward(s, d, weight)
        ctx.shape, ctx.dtype = x.shape, x.dtype

        return linear_onto(x, tokens, weight, low_rank(s, narrow.T, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        s, d, weight = ctx.saved_tensors
        d_x, d_d = None, None
        with own_dtypes(g):
            g = as_rows(g).to(s.dtype)
            if ctx.needs_input_grad[1]:
                d_d = (s.T @ g).to(d.dtype)
            if ctx.needs_input_grad[0]:
                width = weight.shape[1]
                tiled = (g @ d.to(g.dtype).T).repeat(1, -(-width // d.shape[0]))[:, :width]
                d_x = input_gradient(g, weight, onto=tiled).reshape(ctx.shape).to(ctx.dtype)
        return d_x, d_d, None, None


class _ColLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, blocks: Tensor, weight: Tensor | None, bias: Tensor | None, rows: Rows | None
    ) -> Tensor:
        ctx.save_for_backward(x, blocks, weight)
        ctx.rows = rows
        dtype, r = product_dtype(x), blocks.shape[-1]
        tokens, moving = as_rows(x).to(dtype), blocks.to(dtype)
        s = sum_tiles(tokens, r)
        # y must own its memory, or autograd refuses what is added to it in place later
        y = x.new_empty(*x.shape[:-1], blocks.shape[0] * r)
        for chunk, dense in _chunks(weight, rows, moving, x.shape[-1]):
            outputs = slice(chunk.start * r, chunk.stop * r)
            out = as_rows(y)[:, outputs]
            part = torch.mm(s, moving[chunk].flatten(0, 1).T, out=out if out.dtype == dtype else None)
            if bias is not None:
                part += bias[outputs]
            part.addmm_(tokens, _moved(dense, moving[chunk]).T)
            if part.dtype != out.dtype:
                out.copy_(part)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        with own_dtypes(g):
            return _col_backward(ctx, as_rows(g))


def _col_backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients at x, B, W and the bias, for g of shape (tokens, out)."""
    x, blocks, weight = ctx.saved_tensors
    needs_x, needs_blocks, needs_weight, needs_bias, _ = ctx.needs_input_grad
    dtype, r = product_dtype(x), blocks.shape[-1]
    tokens, moving, g = as_rows(x).to(dtype), blocks.to(dtype), g.to(dtype)
    d_x, d_blocks, d_weight = None, None, []
    # the parts that `+ B` has in both gradients, exact through Σ_c x_c
    if needs_x:
        d_x = (g @ moving.flatten(0, 1)).repeat(1, tokens.shape[-1] // r)
    if needs_blocks:
        d_blocks = (g.T @ sum_tiles(tokens, r)).view(blocks.shape).to(blocks.dtype)
    for chunk, dense in _chunks(weight, ctx.rows, moving, x.shape[-1]):
        g_chunk = g[:, chunk.start * r : chunk.stop * r]
        if d_x is not None:
            d_x.addmm_(g_chunk, _moved(dense, moving[chunk]))
        if not (needs_blocks or needs_weight):
            continue
        d_moved = (g_chunk.T @ tokens).view(chunk.stop - chunk.start, -1, r)
        if d_blocks is not None:
            d_blocks[chunk] += torch.bmm(dense.reshape(d_moved.shape).mT, d_moved)
        if needs_weight:
            d_weight.append(torch.baddbmm(d_moved, d_moved, moving[chunk].mT).view(dense.shape))
    return (
        d_x.view(x.shape).to(x.dtype) if d_x is not None else None,
        d_blocks,
        torch.cat(d_weight).to(x.dtype) if needs_weight else None,
        g.sum(0).to(x.dtype) if needs_bias else None,
        None,
    )


def _chunks(
    weight: Tensor | None, rows: Rows | None, blocks: Tensor, in_features: int
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of output blocks with their dense rows of W, (blocks·r, in), in the blocks' dtype: so many bytes at most."""
    r = blocks.shape[-1]
    most = CHUNK_BYTES.get(blocks.device.type, CHUNK_BYTES_ELSEWHERE)
    for part in row_chunks(blocks.shape[0] * r, in_features * blocks.element_size(), most, multiple=r):
        dense = weight[part] if rows is None else rows(part.start, part.stop)  # type: ignore[index]
        yield slice(part.start // r, part.stop // r), dense.to(blocks.dtype)


def _moved(dense: Tensor, blocks: Tensor) -> Tensor:
    """Rows of W (I + B): (n·r, in) for n blocks."""
    tiles = dense.reshape(blocks.shape[0], -1, blocks.shape[-1])
    return torch.baddbmm(tiles, tiles, blocks).view(dense.shape)
