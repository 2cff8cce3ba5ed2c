"""A linear layer's low-rank update, both ways, against the formula written down: dropout, low precision, autocast."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from linchain.ops import adapted_linear as module
from linchain.ops.adapted_linear import adapted_linear, add_update
from linchain.ops.factors import ready_factors

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def problem(tokens: int, ins: int, r: int, outs: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """base weight, x, A, B"""
    random = torch.Generator().manual_seed(tokens + 10 * ins + 100 * r + 1000 * outs)
    shapes = [(outs, ins), (2, tokens, ins), (r, ins), (outs, r)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def added(x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dropout: float = 0.0) -> Tensor:
    """`adapted_linear`'s result by way of `add_update`, in x's dtype."""
    return add_update(F.linear(x, w, bias).clone(), x, a.to(x.dtype), b.to(x.dtype), dropout)


both_ways = pytest.mark.parametrize("layer", [adapted_linear, added], ids=["weight-read", "layer-called"])


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([adapted_linear, added]),
    st.integers(0, 6),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 9),
    st.booleans(),
)
def test_forward_and_gradients(layer: Any, tokens: int, ins: int, r: int, outs: int, biased: bool) -> None:
    w, *leaves = problem(tokens, ins, r, outs)
    bias = torch.linspace(-1, 1, outs, dtype=torch.float64) if biased else None
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x, a, b = leaves
    ours, plain = layer(x, w, bias, a, b), F.linear(x, w, bias) + x @ a.T @ b.T
    torch.testing.assert_close(ours, plain, **EXACT)
    direction = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad((ours * direction).sum(), leaves),
        torch.autograd.grad((plain * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **EXACT)


@both_ways
def test_dropout_is_one_mask_for_forward_and_backward(layer: Any) -> None:
    w, x, a, b = problem(50, 8, 3, 6)
    leaves = [leaf.requires_grad_() for leaf in (x, a, b)]
    torch.manual_seed(3)
    ours = layer(x, w, None, a, b, dropout=0.4)
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
@pytest.mark.parametrize("products", ["own", "float32"])
@both_ways
def test_float32_masters_over_a_low_precision_base(layer: Any, products: str, dtype: torch.dtype) -> None:
    """Products in the base's dtype, and in float32 as on a processor that only emulates that dtype."""
    w, x, a, b = problem(20, 16, 4, 12)
    low_w, low_x = w.to(dtype), x.to(dtype).requires_grad_()
    masters = [(0.3 * t).float().requires_grad_() for t in (a, b)]
    exact = [t.detach().double().requires_grad_() for t in (low_x, *masters)]
    ready = ready_factors(masters[0], (), masters[1], 1.0, dtype if products == "own" else torch.float32)
    y = layer(low_x, low_w, None, *ready)
    plain = F.linear(exact[0], low_w.double()) + exact[0] @ exact[1].T @ exact[2].T
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), plain, rtol=0, atol=4 * eps * float(plain.detach().abs().max()))
    ours = torch.autograd.grad(y.double().square().sum(), [low_x, *masters])
    assert [gradient.dtype for gradient in ours] == [dtype, torch.float32, torch.float32]
    for one, other in zip(ours, torch.autograd.grad(plain.square().sum(), exact), strict=True):
        assert torch.linalg.norm(one.double() - other) < 4 * eps * torch.linalg.norm(other)


@pytest.mark.parametrize("biased", [True, False])
def test_widened_weights_come_in_chunks(monkeypatch: pytest.MonkeyPatch, biased: bool) -> None:
    w, x, a, b = (t.bfloat16() for t in problem(5, 8, 2, 13))
    bias = torch.linspace(-1, 1, 13).bfloat16() if biased else None
    wide = a.float().requires_grad_(), b.float().requires_grad_()
    x.requires_grad_()
    whole = adapted_linear(x, w, bias, *wide)
    expected = torch.autograd.grad(whole.float().sum(), (x, *wide))
    monkeypatch.setattr(module, "WIDENED_BYTES", 3 * 8 * 4)  # three rows of eight
    parts = adapted_linear(x, w, bias, *wide)
    torch.testing.assert_close(parts, whole)
    for one, other in zip(torch.autograd.grad(parts.float().sum(), (x, *wide)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_keeps_x_as_it_is() -> None:
    w, x, a, b = (t.float() for t in problem(20, 16, 4, 12))
    leaves = [leaf.requires_grad_() for leaf in (x, a, b)]
    saved = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        y = add_update(F.linear(x.detach(), w), x, *ready_factors(a, (), b, 1.0, torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert any(t is x or t.data_ptr() == x.data_ptr() for t in saved)
    assert not [t for t in saved if t.shape == x.shape and t.data_ptr() != x.data_ptr()]
    gradients = torch.autograd.grad(y.float().sum(), leaves)
    assert [g.dtype for g in gradients] == [torch.float32] * 3


@both_ways
def test_everything_may_be_dropped(layer: Any) -> None:
    w, x, a, b = problem(3, 4, 2, 5)
    y = layer(x.requires_grad_(), w, None, a, b, dropout=1.0)
    torch.testing.assert_close(y, F.linear(x, w))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], w.sum(0).expand_as(x))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@both_ways
def test_shapes_on_the_meta_device(layer: Any, device: str) -> None:
    w, x, a, b = (t.to(device) for t in problem(3, 4, 2, 5))
    assert layer(x, w, None, a, b).shape == (2, 3, 5)


@both_ways
def test_gradcheck(layer: Any) -> None:
    w, *leaves = problem(3, 4, 2, 5)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda x, a, b: layer(x, w, w[:, 0], a, b), leaves)


@both_ways
def test_only_what_is_needed_is_computed(layer: Any) -> None:
    w, x, a, b = problem(3, 4, 2, 5)
    y = layer(x, w, None, a, b.requires_grad_())
    y.sum().backward()
    assert x.grad is None
    assert a.grad is None
    assert b.grad is not None


def test_the_output_may_be_added_to_in_place() -> None:
    """As a second adapter does."""
    w, *leaves = problem(3, 4, 2, 5)
    x, a, b = (leaf.requires_grad_() for leaf in leaves)
    torch.testing.assert_close(
        add_update(adapted_linear(x, w, None, a, b), x, a, b), F.linear(x, w) + 2 * x @ a.T @ b.T, **EXACT
    )
