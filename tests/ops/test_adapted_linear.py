"""The in-place low-rank update against the formula written down, with dropout, in low precision and under autocast."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from linchain.ops.adapted_linear import add_update

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def problem(tokens: int, ins: int, r: int, outs: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """base weight, x, A, B"""
    random = torch.Generator().manual_seed(tokens + 10 * ins + 100 * r + 1000 * outs)
    shapes = [(outs, ins), (2, tokens, ins), (r, ins), (outs, r)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_forward_and_gradients(tokens: int, ins: int, r: int, outs: int) -> None:
    w, *leaves = problem(tokens, ins, r, outs)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x, a, b = leaves
    ours, plain = add_update(F.linear(x, w), x, a, b), F.linear(x, w) + x @ a.T @ b.T
    torch.testing.assert_close(ours, plain, **EXACT)
    direction = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad((ours * direction).sum(), leaves),
        torch.autograd.grad((plain * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


def test_dropout_is_one_mask_for_forward_and_backward() -> None:
    w, x, a, b = problem(50, 8, 3, 6)
    leaves = [leaf.requires_grad_() for leaf in (x, a, b)]
    torch.manual_seed(3)
    ours = add_update(F.linear(x, w), x, a, b, dropout=0.4)
    torch.manual_seed(3)
    mask = torch.native_dropout(torch.ones_like(x), 0.4, True)[0]
    assert 0.5 < float((mask > 0).double().mean()) < 0.7
    plain = F.linear(x, w) + (x * mask) @ a.T @ b.T
    torch.testing.assert_close(ours, plain, **EXACT)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), leaves), torch.autograd.grad(plain.square().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_float32_factors_over_a_low_precision_base(dtype: torch.dtype) -> None:
    w, x, a, b = problem(20, 16, 4, 12)
    low_w, low_x = w.to(dtype), x.to(dtype)
    masters = [(0.3 * t).float().requires_grad_() for t in (a, b)]
    exact = [t.detach().double().requires_grad_() for t in masters]
    y = add_update(F.linear(low_x, low_w), low_x, *masters)
    plain = F.linear(low_x.double(), low_w.double()) + low_x.double() @ exact[0].T @ exact[1].T
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), plain, rtol=0, atol=4 * eps * float(plain.detach().abs().max()))
    ours = torch.autograd.grad(y.double().square().sum(), masters)
    for one, other in zip(ours, torch.autograd.grad(plain.square().sum(), exact), strict=True):
        assert one.dtype == torch.float32
        assert torch.linalg.norm(one.double() - other) < 4 * eps * torch.linalg.norm(other)


def test_autocast_keeps_x_as_it_is() -> None:
    w, x, a, b = (t.float() for t in problem(20, 16, 4, 12))
    leaves = [leaf.requires_grad_() for leaf in (x, a, b)]
    saved = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        y = add_update(F.linear(x.detach(), w), x, a, b)
    assert y.dtype == torch.bfloat16
    assert any(t is x or t.data_ptr() == x.data_ptr() for t in saved)
    assert not [t for t in saved if t.shape == x.shape and t.data_ptr() != x.data_ptr()]
    gradients = torch.autograd.grad(y.float().sum(), leaves)
    assert [g.dtype for g in gradients] == [torch.float32] * 3


def test_everything_may_be_dropped() -> None:
    w, x, a, b = problem(3, 4, 2, 5)
    y = add_update(F.linear(x, w), x.requires_grad_(), a, b, dropout=1.0)
    torch.testing.assert_close(y, F.linear(x, w))
    assert not torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_on_the_meta_device(device: str) -> None:
    _, x, a, b = (t.to(device) for t in problem(3, 4, 2, 5))
    assert add_update(torch.zeros(2, 3, 5, dtype=x.dtype, device=device), x, a, b).shape == (2, 3, 5)


def test_gradcheck() -> None:
    _, *leaves = problem(3, 4, 2, 5)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda x, a, b: add_update(torch.zeros(2, 3, 5).double(), x, a, b), leaves)


def test_only_what_is_needed_is_computed() -> None:
    w, x, a, b = problem(3, 4, 2, 5)
    y = add_update(F.linear(x, w), x, a, b.requires_grad_())
    y.sum().backward()
    assert x.grad is None
    assert a.grad is None
    assert b.grad is not None
