"""Bone's kernels against the plain formulas in float64, and what they keep in memory."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from linchain.ops import block_affine, block_linear, reference

EXACT = {"rtol": 1e-12, "atol": 1e-12}
REFERENCE = {
    "col": reference.bone_col_weight,
    "row": reference.bone_row_weight,
    "plain": reference.bone_plain_weight,
}
every_form = pytest.mark.parametrize("form", REFERENCE)
# "-read": the weight is read, and has no gradient; else the base layer is called (col always reads it)
every_way = pytest.mark.parametrize("way", [*REFERENCE, "row-read", "plain-read"])
sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6))


def problem(form: str, r: int, outs: int, ins: int, tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, weight, bias and blocks of a layer with `outs` × `ins` blocks of r × r."""
    random = torch.Generator().manual_seed(outs + 10 * ins + 100 * tokens)
    shape = {"col": (outs, r, r), "row": (ins, r, r), "plain": (r, outs * r)}[form]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = [draw(2, tokens, ins * r), draw(outs * r, ins * r), draw(outs * r), 0.3 * draw(*shape)]
    return [tensor.to(dtype) for tensor in tensors]


def forward(form: str, x: Tensor, weight: Tensor, bias: Tensor, blocks: Tensor) -> Tensor:
    """What the layer does with the kernels."""
    if form.endswith("-read"):
        linear = {"row-read": block_linear.row_linear, "plain-read": block_linear.plain_linear}[form]
        return linear(x, blocks, weight, bias)
    if form == "col":
        return block_linear.col_linear(x, blocks, weight, bias)
    if form == "row":
        mixed, total = block_affine.row_mix(x, blocks)
        return block_affine.add_tiled(torch.nn.functional.linear(mixed, weight, bias), total)
    y = torch.nn.functional.linear(x, weight, bias)
    return block_affine.add_low_rank(y, block_affine.sum_tiles(x, blocks.shape[0]), blocks.to(y.dtype))


@every_way
@settings(deadline=None, max_examples=25)
@given(sizes=sizes)
def test_forward_and_gradients_equal_the_dense_reference(way: str, sizes: tuple[int, int, int, int]) -> None:
    form, _, read = way.partition("-")
    x, weight, bias, blocks = tensors = problem(form, *sizes)
    leaves = [tensor.requires_grad_() for tensor in ((x, blocks) if read else tensors)]
    y = forward(way, *tensors)
    expected = torch.nn.functional.linear(x, REFERENCE[form](weight, blocks), bias)
    torch.testing.assert_close(y, expected, **EXACT)
    direction = torch.randn_like(y)
    ours = torch.autograd.grad((y * direction).sum(), leaves)
    plain = torch.autograd.grad((expected * direction).sum(), leaves)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@every_form
@settings(deadline=None, max_examples=25)
@given(sizes=sizes)
def test_dense_weight_and_its_inverse(form: str, sizes: tuple[int, int, int, int]) -> None:
    _, weight, _, blocks = problem(form, *sizes)
    moved = block_affine.adapted_weight(weight, blocks, form)
    torch.testing.assert_close(moved, REFERENCE[form](weight, blocks), **EXACT)
    if form == "plain" or block_affine.condition(blocks) < 1e3:
        torch.testing.assert_close(block_affine.original_weight(moved, blocks, form), weight, rtol=1e-9, atol=1e-9)


def test_plain_cuts_the_last_tile() -> None:
    """As PEFT's MiSS does, by padding x with zeros."""
    weight, d = torch.randn(6, 10, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    moved = block_affine.adapted_weight(weight, d, "plain")
    torch.testing.assert_close(moved, reference.bone_plain_weight(weight, d), **EXACT)
    torch.testing.assert_close(block_affine.original_weight(moved, d, "plain"), weight, **EXACT)
    x = torch.randn(3, 10, dtype=torch.float64)
    y = block_affine.add_low_rank(x @ weight.T, block_affine.sum_tiles(x, 4), d)
    torch.testing.assert_close(y, x @ moved.T, **EXACT)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [tensor.requires_grad_() for tensor in problem("col", 3, 5, 4, 2)]
    x, weight, bias, blocks = leaves
    whole = block_linear.col_linear(x, blocks, weight, bias)
    gradients = torch.autograd.grad(whole.sum(), leaves)
    # two output blocks at a time: the last chunk is short
    monkeypatch.setitem(block_linear.CHUNK_BYTES, "cpu", 2 * 3 * 12 * 8)
    read = []

    def rows(start: int, stop: int) -> Tensor:
        read.append((start, stop))
        return weight.detach()[start:stop]

    cut = block_linear.col_linear(x, blocks, None, bias, rows)
    assert read == [(0, 6), (6, 12), (12, 15)]
    torch.testing.assert_close(cut, whole, **EXACT)
    torch.testing.assert_close(
        torch.autograd.grad(cut.sum(), [x, bias, blocks]), gradients[:1] + gradients[2:], **EXACT
    )
    again = block_linear.col_linear(x, blocks, weight, bias)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), leaves), gradients, **EXACT)


@every_way
def test_saves_nothing_of_the_weights_size(way: str) -> None:
    """Counted by storage: what the frozen base layer would keep, x and the blocks, and nothing else of their size."""
    form = way.partition("-")[0]
    x, weight, bias, blocks = problem(form, 8, 16, 8, 5, torch.float32)
    x.requires_grad_()
    blocks.requires_grad_()
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward(way, x, weight, bias, blocks)
    del y
    inputs = {t.untyped_storage()._cdata for t in (x, weight, bias, blocks)}
    own = [t for key, t in saved.items() if key not in inputs]
    # plain keeps Σ_c x_c, an eighth of x; the others nothing at all
    assert sum(t.untyped_storage().nbytes() for t in own) <= (x.nbytes // 8 if form == "plain" else 0)
    assert (x.untyped_storage()._cdata in saved) == (form != "plain")


@every_way
@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_low_precision_weights_keep_float32_blocks(
    monkeypatch: pytest.MonkeyPatch, way: str, emulated: bool, dtype: torch.dtype
) -> None:
    """Also with products in float32, as on a processor that only emulates that dtype, two blocks of the weight at a time."""
    monkeypatch.setattr(block_linear, "product_dtype", lambda t: torch.float32 if emulated else t.dtype)
    monkeypatch.setattr("linchain.ops.products.WIDENED_BYTES", 2 * 8 * 32 * 4)
    form = way.partition("-")[0]
    x, weight, bias, blocks = problem(form, 8, 4, 4, 16)
    low = [tensor.to(dtype) for tensor in (x, weight, bias)]
    exact = [tensor.double() for tensor in low]
    small = 1e-2 * blocks
    leaf, plain = small.float().requires_grad_(), small.clone().requires_grad_()
    y = forward(way, *low, leaf)
    expected = torch.nn.functional.linear(exact[0], REFERENCE[form](exact[1], plain), exact[2])
    assert y.dtype == dtype
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps * scale)
    (ours,) = torch.autograd.grad(y.double().square().sum(), leaf)
    (wanted,) = torch.autograd.grad(expected.square().sum(), plain)
    assert ours.dtype == torch.float32
    assert torch.linalg.norm(ours.double() - wanted) <= 4 * torch.finfo(dtype).eps * torch.linalg.norm(wanted)


@every_form
def test_small_updates_survive_bf16(form: str) -> None:
    """Blocks so small that a W' rounded to bfloat16 is nearly W again: what they add by themselves still arrives."""
    _, weight, bias, blocks = problem(form, 8, 8, 8, 1)
    weight, bias, tiny = (0.02 * weight).bfloat16(), torch.zeros_like(bias).bfloat16(), 1e-5 * blocks
    # columns in pairs of opposite sign, so that W alone gives 0 and its rounding hides nothing
    weight = torch.stack([weight[:, ::2], -weight[:, ::2]], dim=-1).flatten(1)
    x = torch.ones(1, 64, dtype=torch.bfloat16)
    update = x.double() @ REFERENCE[form](weight.double(), tiny).T
    y = forward(form, x, weight, bias, tiny.float())
    rounded = x.double() @ REFERENCE[form](weight.double(), tiny).bfloat16().double().T
    assert torch.linalg.norm(y.double() - update) < 0.1 * torch.linalg.norm(update)
    assert torch.linalg.norm(rounded - update) > 0.5 * torch.linalg.norm(update)


@every_form
def test_gradcheck(form: str) -> None:
    leaves = [tensor.requires_grad_() for tensor in problem(form, 2, 2, 3, 2)]
    assert torch.autograd.gradcheck(lambda *tensors: forward(form, *tensors), leaves)


def test_condition() -> None:
    blocks = torch.zeros(2, 3, 3)
    assert block_affine.condition(blocks) == pytest.approx(1)
    blocks[1] = torch.diag(torch.tensor([0.0, 3.0, -0.5]))
    assert block_affine.condition(blocks) == pytest.approx(8)
