"""Factors made ready for a layer's products: the reference's numbers, rounded once, and its gradients at the masters."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linchain.ops import reference, stack
from linchain.ops.factors import Factors, folded, masters_gradients, ready

EXACT = {"rtol": 1e-12, "atol": 1e-12}
sizes = st.integers(1, 9)
LOW = [torch.bfloat16, torch.float16]


def draw(
    widths: list[int], ins: int, outs: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, list[Tensor], Tensor]:
    """A, the chain's matrices, B"""
    random = torch.Generator().manual_seed(sum(widths) + 100 * ins + 1000 * outs)
    shapes = [(widths[0], ins), *((after, before) for before, after in itertools.pairwise(widths)), (outs, widths[-1])]
    a, *factors, b = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return a.to(dtype), [(factor / factor.shape[1] ** 0.5).to(dtype) for factor in factors], b.to(dtype)


def check(a: Tensor, matrices: list[Tensor], b: Tensor, scaling: float, stacked: bool) -> None:
    factors = Factors(a, b, scaling, [stack(matrices)] if stacked else matrices, stacked)
    ready_a, ready_b, *kept = ready(factors, torch.float64)
    torch.testing.assert_close(ready_b @ ready_a, reference.delta_weight(a, matrices, b, scaling), **EXACT)
    one = folded(factors, torch.float64)
    torch.testing.assert_close(one.a, ready_a, **EXACT)
    assert one.scaling == 1
    assert not one.chain
    x, grad_y = torch.randn(3, a.shape[1]).double(), torch.randn(3, b.shape[0]).double()
    at_ready = (grad_y @ ready_b).T @ x, grad_y.T @ (x @ ready_a.T)
    d_a, d_b, *d_chain = masters_gradients(factors, *kept, *at_ready)
    if stacked:
        d_chain = list(d_chain[0].unbind(-2))
    expected_a, expected_chain, expected_b = reference.gradients(x, grad_y, a, matrices, b, scaling)
    for ours, expected in zip((d_a, d_b, *d_chain), (expected_a, expected_b, *expected_chain), strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


@given(st.lists(sizes, min_size=1, max_size=6), sizes, sizes, st.floats(0.1, 4))
def test_any_widths(widths: list[int], ins: int, outs: int, scaling: float) -> None:
    check(*draw(widths, ins, outs), scaling, stacked=False)


@given(sizes, st.integers(1, 5), sizes, sizes, st.floats(0.1, 4))
def test_a_stacked_chain(r: int, n: int, ins: int, outs: int, scaling: float) -> None:
    check(*draw([r] * (n + 1), ins, outs), scaling, stacked=True)


@pytest.mark.parametrize("masters", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 8])
def test_rounded_once_whatever_the_length(n: int, dtype: torch.dtype, masters: torch.dtype) -> None:
    """Half a unit in the last place at most; the error of folding in float32 is lost in that, or flat in n without it."""
    a, matrices, b = draw([16] * (n + 1), 64, 8, masters)
    ready_a, ready_b, *_ = ready(Factors(a, b, 0.5, matrices), dtype)
    assert ready_a.dtype == ready_b.dtype == dtype
    assert torch.equal(ready_b, b.to(dtype))
    exact = 0.5 * (reference.chain_product([m.double() for m in matrices], 16).double() @ a.double())
    share = float((ready_a.double() - exact).norm() / exact.norm())
    assert share < (0.5 if dtype in LOW else 4) * torch.finfo(dtype).eps


def test_gradients_come_back_in_the_masters_dtypes() -> None:
    a, matrices, b = draw([4, 4, 4], 8, 8, torch.bfloat16)
    factors = Factors(a, b, 1.0, [stack(matrices).float()], True)
    _, _, *kept = ready(factors, torch.bfloat16)
    gradients = masters_gradients(factors, *kept, torch.ones_like(a), torch.ones_like(b))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_what_is_not_asked_for_is_not_computed() -> None:
    a, matrices, b = draw([4, 4, 4], 8, 8)
    factors = Factors(a, b, 1.0, matrices)
    _, _, *kept = ready(factors, torch.float64)
    d_a, d_b, *d_chain = masters_gradients(factors, *kept, None, b)
    assert (d_a, d_chain) == (None, [None, None])
    assert torch.equal(d_b, b)
    d_a, d_b, *d_chain = masters_gradients(factors, *kept, a, None)
    assert d_b is None
    assert None not in (d_a, *d_chain)


def test_two_factors_alone_are_given_as_they_are() -> None:
    """In generation nothing is computed from factors that were folded before."""
    a, _, b = draw([4], 8, 8)
    ready_a, ready_b, *_ = ready(Factors(a, b), torch.float64)
    assert ready_a is a
    assert ready_b is b
