"""Kernel-like operations that an adapter adds to a frozen layer, forward and backward together: no clock is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from linchain import BoneConfig, LinChainConfig
from linchain.bench.counts import count
from linchain.ops import precision, triton_chain
from linchain.ops.chain import fold_backward, prefixes, scaled_product, unstack

WIDTH = 64
BASES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16-base"])


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same count on every machine: as if the processor multiplied bfloat16."""
    monkeypatch.setattr(precision, "_is_emulated", lambda dtype: False)


def operations(model: Any, dtype: torch.dtype) -> int:
    x = torch.randn(2, 8, WIDTH, dtype=dtype, requires_grad=True)
    return count(lambda: model(x).sum(), model).operations


def added(config: PeftConfig, dtype: torch.dtype, *, called: bool = False) -> int:
    """Beside those of the frozen layer; `called`: of a layer whose weight may not be read."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)).to(dtype).requires_grad_(False)
    floor = operations(base, dtype)
    model: Any = get_peft_model(base, config)
    hook = model.base_model.model[0].base_layer.register_forward_pre_hook(lambda *_: None) if called else None
    found = operations(model, dtype) - floor
    if hook is not None:
        hook.remove()
    return found


def linchain(n: int) -> PeftConfig:
    return LinChainConfig(r=8, lora_alpha=16, chain_length=n, init_weights=False, target_modules=["0"])


@BASES
@pytest.mark.parametrize("called", [False, True], ids=["weight-read", "layer-called"])
def test_linchain_with_three_matrices_adds_21_at_most(dtype: torch.dtype, called: bool) -> None:
    # a hooked layer's output is cloned, which is not the chain's doing
    assert added(linchain(3), dtype, called=called) - called <= 21


@BASES
@pytest.mark.parametrize("called", [False, True], ids=["weight-read", "layer-called"])
def test_with_kernels_it_adds_8_whatever_the_length(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, called: bool
) -> None:
    launch_without_a_gpu(monkeypatch)
    # autograd adds the gradient at x up where the layer is called
    assert {added(linchain(n), dtype, called=called) - called for n in (1, 3, 8)} == {8 + called}


# the table of docs/performance.md
TABLE = {
    "linchain-3": (linchain(3), 17, 20),
    "linchain-1": (linchain(1), 11, 14),
    "linchain-0": (linchain(0), 9, 12),
    "lora": (LoraConfig(r=8, lora_alpha=16, init_lora_weights=False, target_modules=["0"]), 10, 15),
    "bone-col": (BoneConfig(r=8, form="col", init_weights=False, target_modules=["0"]), 12, 15),
    "bat": (MissConfig(r=8, init_weights="bat", target_modules=["0"]), 13, 18),
    "bone-row": (BoneConfig(r=8, form="row", init_weights=False, target_modules=["0"]), 10, 13),
    "bone-plain": (BoneConfig(r=8, form="plain", init_weights=False, target_modules=["0"]), 5, 8),
    "miss": (MissConfig(r=8, init_weights=True, target_modules=["0"]), 7, 12),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_operations(name: str) -> None:
    """Ours to the number; PEFT's, the control, are those of the tested version of PEFT."""
    config, in_float32, over_bfloat16 = TABLE[name]
    assert (added(config, torch.float32), added(config, torch.bfloat16)) == (in_float32, over_bfloat16)


def launch_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' place taken by the formulas, each counted as the one launch that it is on a GPU."""

    def forward(a: Tensor, chain: Tensor | None, b: Tensor, scale: float, dtype: torch.dtype) -> Any:
        triton_chain._count_launch()
        with _disable_current_modes():
            assert chain is not None
            products = prefixes(unstack(chain))
            kept = torch.cat([torch.stack(products).flatten(), torch.zeros(1)])
            return scaled_product(products[-1], a, scale).to(dtype), b.to(dtype), kept

    def backward(a: Tensor, chain: Any, kept: Any, scale: float, d_a: Tensor, d_b: Tensor, dtype: torch.dtype) -> Any:
        triton_chain._count_launch()
        with _disable_current_modes():
            products = triton_chain.kept_prefixes(kept, len(a))
            grad_a, *grads = fold_backward(a, unstack(chain), products, d_a.to(a.dtype), scale)
            return grad_a, torch.stack(grads, -2), d_b.to(dtype).contiguous()

    monkeypatch.setattr(triton_chain, "usable", lambda *masters: True)
    monkeypatch.setattr(triton_chain, "forward", forward)
    monkeypatch.setattr(triton_chain, "backward", backward)
