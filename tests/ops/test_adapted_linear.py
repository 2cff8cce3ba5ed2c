"""A linear layer's low-rank update, both ways, against the formula written down: dropout, low precision, autocast."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from linchain.ops import precision
from linchain.ops.adapted_linear import adapted_linear, add_update
from linchain.ops.factors import Factors
from linchain.ops.precision import product_dtype

MODULE = "linchain.ops.adapted_linear"
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def problem(tokens: int, ins: int, r: int, outs: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """base weight, x, A, B"""
    random = torch.Generator().manual_seed(tokens + 10 * ins + 100 * r + 1000 * outs)
    shapes = [(outs, ins), (2, tokens, ins), (r, ins), (outs, r)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def read(x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dropout: float = 0.0) -> Tensor:
    return adapted_linear(x, w, bias, Factors(a, b), dropout)


def added(x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, dropout: float = 0.0) -> Tensor:
    return add_update(F.linear(x, w, bias).clone(), x, Factors(a, b), dropout)


both_ways = pytest.mark.parametrize("layer", [read, added], ids=["weight-read", "layer-called"])


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([read, added]),
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
@pytest.mark.parametrize(
    ("layer", "emulated"),
    [(read, False), (read, True), (added, False)],  # where the layer is called, the products' dtype is its own
    ids=["weight-read", "weight-read-emulated", "layer-called"],
)
def test_float32_masters_over_a_low_precision_base(
    monkeypatch: pytest.MonkeyPatch, layer: Any, emulated: bool, dtype: torch.dtype
) -> None:
    """Products in the base's dtype, and in float32 as on a processor that only emulates that dtype."""
    monkeypatch.setattr(f"{MODULE}.product_dtype", lambda t: torch.float32 if emulated else t.dtype)
    w, x, a, b = problem(20, 16, 4, 12)
    low_w, low_x = w.to(dtype), x.to(dtype).requires_grad_()
    masters = [(0.3 * t).float().requires_grad_() for t in (a, b)]
    exact = [t.detach().double().requires_grad_() for t in (low_x, *masters)]
    y = layer(low_x, low_w, None, *masters)
    plain = F.linear(exact[0], low_w.double()) + exact[0] @ exact[1].T @ exact[2].T
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), plain, rtol=0, atol=4 * eps * float(plain.detach().abs().max()))
    ours = torch.autograd.grad(y.double().square().sum(), [low_x, *masters])
    assert [gradient.dtype for gradient in ours] == [dtype, torch.float32, torch.float32]
    for one, other in zip(ours, torch.autograd.grad(plain.square().sum(), exact), strict=True):
        assert torch.linalg.norm(one.double() - other) < 4 * eps * torch.linalg.norm(other)


def test_the_dtype_of_products_is_that_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert product_dtype(torch.ones(1)) == torch.float32
    assert product_dtype(torch.ones(1).double()) == torch.float64
    assert product_dtype(torch.ones(1, dtype=torch.bfloat16, device="meta")) == torch.bfloat16
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        precision._is_emulated.cache_clear()
        assert product_dtype(torch.ones(16, 2).bfloat16()) == expected
        # for a few tokens widening the weight would take longer
        assert product_dtype(torch.ones(3, 5, 2).bfloat16()) == torch.bfloat16
    precision._is_emulated.cache_clear()


@pytest.mark.parametrize("biased", [True, False])
def test_widened_weights_come_in_chunks(monkeypatch: pytest.MonkeyPatch, biased: bool) -> None:
    monkeypatch.setattr(f"{MODULE}.product_dtype", lambda t: torch.float32)
    w, x, a, b = (t.bfloat16() for t in problem(5, 8, 2, 13))
    bias = torch.linspace(-1, 1, 13).bfloat16() if biased else None
    leaves = [t.requires_grad_() for t in (x, a, b)]
    whole = read(x, w, bias, a, b)
    expected = torch.autograd.grad(whole.float().sum(), leaves)
    monkeypatch.setattr("linchain.ops.products.WIDENED_BYTES", 3 * 8 * 4)  # three rows of eight
    parts = read(x, w, bias, a, b)
    torch.testing.assert_close(parts, whole)
    for one, other in zip(torch.autograd.grad(parts.float().sum(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_keeps_x_as_it_is() -> None:
    w, x, a, b = (t.float() for t in problem(20, 16, 4, 12))
    leaves = [leaf.requires_grad_() for leaf in (x, a, b)]
    saved = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        y = add_update(F.linear(x.detach(), w), x, Factors(a, b))
    assert y.dtype == torch.bfloat16
    assert any(t is x or t.data_ptr() == x.data_ptr() for t in saved)
    assert not [t for t in saved if t.shape == x.shape and t.data_ptr() != x.data_ptr()]
    gradients = torch.autograd.grad(y.float().sum(), leaves)
    assert [g.dtype for g in gradients] == [torch.float32] * 3


@both_ways
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("tokens", [3, 20])
def test_without_gradients_the_result_is_the_same(layer: Any, tokens: int, dropout: float) -> None:
    w, x, a, b = problem(tokens, 16, 4, 12)
    torch.manual_seed(0)
    with_gradients = layer(x, w, w[:, 0], a.requires_grad_(), b, dropout)
    torch.manual_seed(0)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, w, w[:, 0], a, b, dropout), with_gradients, **EXACT)


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


def test_a_frozen_adapter_keeps_no_input() -> None:
    """As one under another that trains; x still gets its gradient."""
    w, x, a, b = problem(20, 16, 4, 12)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = read(x.requires_grad_(), w, None, a, b)
    assert not [t for t in saved if t.shape == x.shape]
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], (w + b @ a).sum(0).expand_as(x), **EXACT)


def test_the_output_may_be_added_to_in_place() -> None:
    """As a second adapter does."""
    w, *leaves = problem(3, 4, 2, 5)
    x, a, b = (leaf.requires_grad_() for leaf in leaves)
    twice = add_update(read(x, w, None, a, b), x, Factors(a, b))
    torch.testing.assert_close(twice, F.linear(x, w) + 2 * x @ a.T @ b.T, **EXACT)
