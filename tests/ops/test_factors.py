"""The factors made ready: the reference's numbers, rounded once, with the reference's gradients at the masters."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linchain.ops import reference, stack
from linchain.ops.factors import ready_factors

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


def check(a: Tensor, factors: list[Tensor], b: Tensor, scaling: float, stacked: bool) -> None:
    chain = stack(factors).requires_grad_() if stacked else [factor.requires_grad_() for factor in factors]
    leaves = [a.requires_grad_(), *([chain] if stacked else factors), b.requires_grad_()]
    folded, kept = ready_factors(a, chain, b, scaling, torch.float64)
    torch.testing.assert_close(kept @ folded, reference.delta_weight(a, factors, b, scaling), **EXACT)
    x, grad_y = torch.randn(3, a.shape[1]).double(), torch.randn(3, b.shape[0]).double()
    d_a, *d_chain, d_b = torch.autograd.grad(x @ folded.T @ kept.T, leaves, grad_y)
    if stacked:
        d_chain = list(d_chain[0].unbind(-2))
    expected_a, expected_chain, expected_b = reference.gradients(x, grad_y, a, factors, b, scaling)
    for ours, expected in zip((d_a, *d_chain, d_b), (expected_a, *expected_chain, expected_b), strict=True):
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
    """Also under autocast. Rounding once is at most half a unit in the last place; the float32 folding before it is lost in
    that, or flat in n where there is none."""
    a, factors, b = draw([16] * (n + 1), 64, 8, masters)
    with torch.autocast("cpu", torch.bfloat16):
        folded, kept = ready_factors(a, factors, b, 0.5, dtype)
    assert folded.dtype == kept.dtype == dtype
    assert torch.equal(kept, b.to(dtype))
    exact = 0.5 * (reference.chain_product([f.double() for f in factors], 16).double() @ a.double())
    share = float((folded.double() - exact).norm() / exact.norm())
    assert share < (0.5 if dtype in LOW else 4) * torch.finfo(dtype).eps


def test_gradients_come_back_in_the_masters_dtype() -> None:
    a, factors, b = (t if isinstance(t, list) else t.requires_grad_() for t in draw([4, 4, 4], 8, 8, torch.bfloat16))
    chain = stack(factors).float().requires_grad_()
    folded, kept = ready_factors(a, chain, b, 1.0, torch.bfloat16)
    (folded.sum() + kept.sum()).backward()
    assert [t.grad.dtype for t in (a, chain, b)] == [torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("trained", ["a", "chain", "b"])
def test_a_frozen_part_asks_for_no_gradient(trained: str) -> None:
    a, factors, b = draw([4, 4], 8, 8, torch.float32)
    tensors = {"a": a, "chain": stack(factors), "b": b}
    tensors[trained].requires_grad_()
    folded, kept = ready_factors(**tensors, scaling=1.0, dtype=torch.bfloat16)
    assert folded.requires_grad == (trained != "b")
    assert kept.requires_grad == (trained == "b")
    (folded.sum() if trained != "b" else kept.sum()).backward()
    assert tensors[trained].grad is not None


def test_gradcheck() -> None:
    a, factors, b = draw([3, 3, 3], 5, 4)
    leaves = [a.requires_grad_(), stack(factors).requires_grad_(), b.requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, chain, b: ready_factors(a, chain, b, 0.7, torch.float64), leaves)
