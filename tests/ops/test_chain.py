"""The chain's mathematics against the plain formulas, over random shapes and dtypes."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linchain.ops import fold, reference, stack, unstack
from linchain.ops.chain import fold_backward, prefixes

EXACT = {"rtol": 1e-12, "atol": 1e-12}
sizes = st.integers(1, 9)
chains = st.lists(sizes, min_size=1, max_size=6)  # widths r_0 … r_n


def draw(
    widths: list[int], in_features: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(widths[0], in_features, generator=generator, dtype=torch.float64)
    factors = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) / before**0.5
        for before, after in itertools.pairwise(widths)
    ]
    return a.to(dtype), [factor.to(dtype) for factor in factors]


@given(chains, sizes, st.integers(0, 99))
def test_fold_equals_the_product(widths: list[int], in_features: int, seed: int) -> None:
    a, factors = draw(widths, in_features, seed=seed)
    torch.testing.assert_close(fold(a, factors), reference.chain_product(factors, widths[0]).double() @ a, **EXACT)


@given(chains, sizes, sizes, sizes, st.floats(0.1, 4))
def test_gradients_equal_the_corrected_equations(
    widths: list[int], tokens: int, in_features: int, out_features: int, scaling: float
) -> None:
    a, factors = draw(widths, in_features)
    b, w = torch.randn(out_features, widths[-1]).double(), torch.randn(out_features, in_features).double()
    x, grad_y = torch.randn(tokens, in_features).double(), torch.randn(tokens, out_features).double()
    leaves = [t.requires_grad_() for t in (a, *factors, b)]
    y = x @ w.T + scaling * x @ fold(a, factors).T @ b.T
    torch.testing.assert_close(y, reference.forward(x, w, a, factors, b, scaling), **EXACT)
    ours = torch.autograd.grad(y, leaves, grad_y)
    d_a, d_factors, d_b = reference.gradients(x, grad_y, a, factors, b, scaling)
    for gradient, expected in zip(ours, (d_a, *d_factors, d_b), strict=True):
        torch.testing.assert_close(gradient, expected, **EXACT)


@given(chains, sizes)
def test_reference_gradients_are_autograds(widths: list[int], in_features: int) -> None:
    """The trusted formulas themselves, against automatic differentiation of the plain forward."""
    a, factors = draw(widths, in_features)
    b, x, grad_y = torch.randn(3, widths[-1]).double(), torch.randn(4, in_features).double(), torch.randn(4, 3).double()
    leaves = [t.requires_grad_() for t in (a, *factors, b)]
    y = reference.forward(x, torch.zeros(3, in_features).double(), a, factors, b, 0.5)
    automatic = torch.autograd.grad(y, leaves, grad_y)
    d_a, d_factors, d_b = reference.gradients(x, grad_y, a, factors, b, 0.5)
    for gradient, expected in zip(automatic, (d_a, *d_factors, d_b), strict=True):
        torch.testing.assert_close(gradient, expected, **EXACT)


@given(chains.filter(lambda widths: len(widths) > 1), sizes, st.integers(2, 4))
def test_experts_fold_one_by_one(widths: list[int], in_features: int, experts: int) -> None:
    drawn = [draw(widths, in_features, seed=e) for e in range(experts)]
    a = torch.stack([a for a, _ in drawn]).requires_grad_()
    factors = [torch.stack(factor).requires_grad_() for factor in zip(*(f for _, f in drawn), strict=True)]
    folded = fold(a, factors)
    for e, (a_e, factors_e) in enumerate(drawn):
        torch.testing.assert_close(folded[e], fold(a_e, factors_e), **EXACT)
    grad = torch.randn_like(folded)
    ours = torch.autograd.grad(folded, [a, *factors], grad)
    for gradient, expected in zip(ours, fold_backward(a, factors, prefixes(factors), grad), strict=True):
        torch.testing.assert_close(gradient, expected, **EXACT)


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(1, 5), sizes)
def test_gradcheck(n: int, r: int, in_features: int) -> None:
    a, factors = draw([r] * (n + 1), in_features)
    leaves = [t.requires_grad_() for t in (a, *factors)]
    assert torch.autograd.gradcheck(lambda a, *factors: fold(a, factors), leaves)


@given(st.integers(0, 8), st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_folding_rounds_in_float32(n: int, dtype: torch.dtype) -> None:
    """Low-precision factors fold with float32's error, also under autocast, and the error is flat in n."""
    a, factors = draw([16] * (n + 1), 64, dtype)
    exact = fold(a.double(), [factor.double() for factor in factors])
    with torch.autocast("cpu", torch.bfloat16):
        folded = fold(a, factors)
    assert folded.dtype == (torch.float32 if n else dtype)
    if n:
        error = (folded.double() - exact).norm() / exact.norm()
        assert error < 4 * torch.finfo(torch.float32).eps


def test_low_precision_gradients_come_back_in_their_dtype() -> None:
    a, factors = draw([4, 4, 4], 8, torch.bfloat16)
    leaves = [t.requires_grad_() for t in (a, *factors)]
    fold(a, factors).sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.bfloat16 for t in leaves)


@given(st.integers(1, 5), sizes, st.booleans())
def test_stack_and_unstack(n: int, r: int, experts: bool) -> None:
    factors = [torch.randn(*((3,) if experts else ()), r, r) for _ in range(n)]
    chain = stack(factors)
    assert chain.shape[-3:] == (r, n, r)
    assert all(torch.equal(a, b) for a, b in zip(unstack(chain), factors, strict=True))


def test_signal_through_a_kaiming_chain_shrinks() -> None:
    """RMS of the chain's output by length, at the paper's start: 3^(-n/2), as measured for r = 16."""
    torch.manual_seed(0)
    for n in range(4):
        h = torch.randn(200, 500, 16)
        for _ in range(n):
            h = h @ torch.empty(200, 16, 16).uniform_(-0.25, 0.25).mT  # Kaiming-uniform with a = √5 is ±1/√r
        assert abs(h.square().mean().sqrt() - 3 ** (-n / 2)) < 0.02
