"""Products with a frozen weight, stored onto what is there: the output's update, or the gradient's.

An update that is added to a finished product reads and writes the whole output once more. Here the update is written first,
and the product is added onto it as it is stored (beta = 1 in BLAS's words), in the forward and for the gradient at x alike.

Where a processor only emulates products in x's dtype they are done in float32, a few rows of the weight at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Bytes of a temporary that holds rows of the weight in a wider dtype: few enough to stay in a core's cache.
WIDENED_BYTES = 2 * 2**20

# Writes the update, for some of the outputs or, without a slice, for all, into a part of the output, (tokens, some).
Write = Callable[[Tensor, slice | None], None]


def low_rank(h: Tensor, b: Tensor, bias: Tensor | None) -> Write:
    """Writes h Bᵀ (+ bias), for h (tokens, r) and B (out, r) of one dtype."""

    def write(part: Tensor, chunk: slice | None) -> None:
        some = b if chunk is None else b[chunk]
        if bias is None:
            torch.mm(h, some.T, out=part)
        else:
            torch.addmm((bias if chunk is None else bias[chunk]).to(h.dtype), h, some.T, out=part)

    return write


def linear_onto(x: Tensor, tokens: Tensor, weight: Tensor, write: Write, multiple: int = 1) -> Tensor:
    """An update + x Wᵀ, rounded to x's dtype; where the products are done in that dtype, the update is before as well.

    Args:
        x: (*, in), for its shape and dtype.
        tokens: What W multiplies, (tokens, in), in the dtype of the products.
        weight: W, (out, in), of x's dtype.
        write: Writes the update, with the bias.
        multiple: Of which its slices of the outputs are, where they are not all of them.

    Returns:
        (*, out), which owns its memory: else autograd would refuse what is added to it in place later.
    """
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    out = as_rows(y)
    if tokens.dtype == y.dtype:
        write(out, None)
        out.addmm_(tokens, weight.T)
        return y
    for chunk in _widened_chunks(weight, tokens.dtype, multiple):
        dense = weight[chunk].to(tokens.dtype)
        part = tokens.new_empty(len(tokens), len(dense))
        write(part, chunk)
        out[:, chunk] = part.addmm_(tokens, dense.T)
    return y


def input_gradient(g: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """g W, (tokens, in), in place onto what is there, for g (tokens, out) in the dtype of the products."""
    if g.dtype == weight.dtype:
        return g @ weight if onto is None else onto.addmm_(g, weight)
    total = g.new_zeros(len(g), weight.shape[1]) if onto is None else onto
    for chunk in _widened_chunks(weight, g.dtype):
        total.addmm_(g[:, chunk], weight[chunk].to(g.dtype))
    return total


def as_rows(x: Tensor) -> Tensor:
    """(*, width) as (tokens, width)."""
    return x.reshape(-1, x.shape[-1])


def row_chunks(rows: int, bytes_of_row: int, most: int, multiple: int = 1) -> Iterator[slice]:
    """Slices of `rows`, so many at a time, in multiples of `multiple`, that they take `most` bytes or as little as can be."""
    step = max(1, most // (bytes_of_row * multiple)) * multiple
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _widened_chunks(weight: Tensor, dtype: torch.dtype, multiple: int = 1) -> Iterator[slice]:
    return row_chunks(weight.shape[0], weight.shape[1] * dtype.itemsize, WIDENED_BYTES, multiple)
