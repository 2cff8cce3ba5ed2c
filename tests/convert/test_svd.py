"""Bone → LoRA by a truncated SVD: it is the closest one, and the error that is stated is the error there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import MissConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain import BoneConfig
from linchain.convert.adapter import adapter_of
from linchain.convert.svd import Approximation, closest_lora, truncated
from linchain.errors import LinchainError
from tests.convert.test_fold import as_lora

# PEFT's remark on Conv1D, whose weight is transposed
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

# name, (in, out): their smaller sides are 12, 4 and 8
WIDTHS = {"wide": (12, 20), "flat": (16, 4), "square": (8, 8)}


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 12), st.integers(0, 99))
def test_truncated_is_as_close_as_the_svd(out: int, width: int, rank: int, full: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    draw = {"generator": random, "dtype": torch.float64}
    update = torch.randn(out, full, **draw) @ torch.randn(full, width, **draw)  # of rank `full`, zero included
    a, b = truncated(update, rank)
    assert (a.shape, b.shape) == ((rank, width), (out, rank))
    values = torch.linalg.svdvals(update)
    error, scale = torch.linalg.norm(update - b @ a), float(torch.linalg.norm(update))
    assert abs(error - torch.linalg.norm(values[rank:])) <= 1e-7 * scale
    kept = torch.linalg.svdvals(b @ a)[:rank]
    torch.testing.assert_close(kept, values[:rank], rtol=1e-7, atol=1e-7 * scale)
    # the roots of the singular values are shared evenly
    torch.testing.assert_close(b.T @ b, a @ a.T, rtol=1e-7, atol=1e-7 * scale)


def test_truncated_is_the_svd() -> None:
    torch.manual_seed(0)
    for shape in ((9, 14), (14, 9)):
        update = torch.randn(shape, dtype=torch.float64)
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        a, b = truncated(update, 4)
        torch.testing.assert_close(b @ a, u[:, :4] * s[:4] @ v[:4], rtol=1e-10, atol=1e-10)


def test_small_singular_values_are_kept() -> None:
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q for _ in range(2))
    values = torch.logspace(0, -10, 20, dtype=torch.float64)
    update = u * values @ v.T
    for rank in (2, 10, 19):
        a, b = truncated(update, rank)
        lost = torch.linalg.norm(values[rank:])
        # float32 factors lose 1e-7 of the update
        assert lost * (1 - 1e-9) <= torch.linalg.norm(update - b @ a) <= lost + 2e-8


def base() -> nn.Module:
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {name: nn.Linear(*widths) for name, widths in WIDTHS.items()}
    return nn.ModuleDict(layers | {"conv": Conv1D(8, 16)}).double()


def adapted(config: Any, spread: float = 0.5) -> PeftModel:
    torch.manual_seed(1)
    model = get_peft_model(base(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=spread)
    return model.eval()


def weights(model: Any) -> dict[str, Tensor]:
    """Each module's weight (out, in), read off its outputs."""
    found = {}
    for name, widths in (WIDTHS | {"conv": (16, 8)}).items():
        layer = model.get_submodule(name)
        zero = layer(torch.zeros(1, widths[0], dtype=torch.float64))
        found[name] = (layer(torch.eye(widths[0], dtype=torch.float64)) - zero).T.detach()
    return found


CONFIGS: dict[str, Any] = {
    "col": BoneConfig(r=4, form="col", target_modules=[*WIDTHS, "conv"]),
    "row": BoneConfig(r=4, form="row", target_modules=[*WIDTHS, "conv"]),
    "bat": MissConfig(r=4, init_weights="bat", target_modules=list(WIDTHS)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3, 6, 12])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_stated_error_is_the_error(config: Any, rank: int, dtype: torch.dtype) -> None:
    model = adapted(config)
    found, tensors, stated = closest_lora(*adapter_of(model, "default"), model, rank, dtype)
    assert (found.r, found.lora_alpha, stated.rank) == (rank, rank, rank)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}

    plain, before = weights(base()), weights(model.base_model.model)
    after = weights(as_lora(base(), found, {key: tensor.double() for key, tensor in tensors.items()}).base_model.model)
    updates = {name: before[name] - plain[name] for name in config.target_modules}
    lost = {name: torch.linalg.norm(before[name] - after[name]) for name in updates}
    shares = {name: float(lost[name] / torch.linalg.norm(update)) for name, update in updates.items()}
    together = torch.stack(list(lost.values())).norm() / torch.cat([u.flatten() for u in updates.values()]).norm()
    assert stated.error == pytest.approx(float(together), rel=1e-6, abs=1e-12)
    assert stated.worst == pytest.approx(max(shares.values()), rel=1e-6, abs=1e-12)
    if rank < 12:  # above, what is left is rounding
        assert stated.module == max(shares, key=lambda name: shares[name])

    # and no LoRA of this rank is closer
    tails = [torch.linalg.svdvals(update)[rank:].norm() for update in updates.values()]
    best = float(torch.stack(tails).norm() / torch.cat([u.flatten() for u in updates.values()]).norm())
    rounding = {torch.float64: 1e-10, torch.float32: 1e-7, torch.bfloat16: 1e-2}[dtype]
    assert best - 1e-10 <= stated.error <= best + rounding


def test_narrower_modules_are_padded() -> None:
    model = adapted(CONFIGS["col"])
    _, tensors, stated = closest_lora(*adapter_of(model, "default"), model, 12, torch.float64)
    a, b = (tensors[f"base_model.model.flat.lora_{factor}.weight"] for factor in "AB")
    assert (a.shape, b.shape) == ((12, 16), (4, 12))
    assert not a[4:].any()
    assert not b[:, 4:].any()
    assert stated.error < 1e-10


def test_a_rank_that_no_update_has_is_refused() -> None:
    model = adapted(CONFIGS["col"])
    with pytest.raises(LinchainError, match="--svd-rank 13 is more than any adapted weight has; at rank 12 nothing"):
        closest_lora(*adapter_of(model, "default"), model, 13)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    model = adapted(CONFIGS["row"])
    config, tensors = adapter_of(model, "default")
    tensors["base_model.model.square.bone_block"][1, 2, 3] = value
    with pytest.raises(LinchainError, match="the adapter's update of square is not finite"):
        closest_lora(config, tensors, model, 2)


def test_an_adapter_that_does_nothing_has_no_error() -> None:
    model = adapted(CONFIGS["row"], spread=0)
    _, tensors, stated = closest_lora(*adapter_of(model, "default"), model, 2)
    assert (stated.error, stated.worst) == (0, 0)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_in_words() -> None:
    assert str(Approximation(8, 0.25, 0.5, "model.layers.1.mlp.down_proj")) == (
        "relative error of the update 0.25 at rank 8 (Frobenius norm; 0.5 in model.layers.1.mlp.down_proj, the worst module)"
    )
