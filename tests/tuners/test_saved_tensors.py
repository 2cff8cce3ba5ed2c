"""What adapters keep for the backward, counted by saved-tensor hooks: no clock is needed to see what is copied."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from linchain import BoneConfig, LinChainConfig

WIDTH = 64
TARGETS = ["q", "k", "v"]
TOKENS = 48


class Attention(nn.Module):
    """Three projections of one input, and a frozen one of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.q(x) + self.k(x) + self.v(x))


def saved_by(config: PeftConfig, dtype: torch.dtype, autocast: bool = False) -> tuple[dict[int, Tensor], Tensor]:
    """The storages that one forward keeps, the parameters' own left out, and the input."""
    torch.manual_seed(0)
    model: Any = get_peft_model(Attention().to(dtype), config)
    x = torch.randn(2, TOKENS // 2, WIDTH, dtype=dtype, requires_grad=True)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        model(x).float().sum().backward()
    return saved, x


def shaped_as_x(saved: dict[int, Tensor]) -> list[Tensor]:
    """Not the frozen weights, which autocast copies for the base layers."""
    return [t for t in saved.values() if t.shape == (2, TOKENS // 2, WIDTH)]


def of_size_of_x(saved: dict[int, Tensor]) -> list[Tensor]:
    return [t for t in saved.values() if t.numel() >= TOKENS * WIDTH]


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)],
    ids=["float32", "bf16-base", "autocast"],
)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_linchain_saves_x_once_per_distinct_input(length: int, dtype: torch.dtype, autocast: bool) -> None:
    config = LinChainConfig(r=4, chain_length=length, init_weights=False, target_modules=TARGETS)
    saved, x = saved_by(config, dtype, autocast)
    (kept,) = shaped_as_x(saved)
    assert kept.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_dropout_saves_a_byte_an_element_besides() -> None:
    config = LinChainConfig(r=4, lora_dropout=0.1, init_weights=False, target_modules=TARGETS)
    saved, _ = saved_by(config, torch.float32)
    assert sorted(str(t.dtype) for t in of_size_of_x(saved)) == ["torch.bool"] * 3 + ["torch.float32"]


def test_the_count_sees_what_pefts_lora_copies() -> None:
    """The control: float32 adapters over a bfloat16 base make PEFT copy the input for each of the three modules."""
    saved, _ = saved_by(LoraConfig(r=4, init_lora_weights=False, target_modules=TARGETS), torch.bfloat16)
    assert sum(t.dtype == torch.float32 for t in of_size_of_x(saved)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16-base"])
@pytest.mark.parametrize("form", ["col", "row", "plain"])
def test_bone_saves_nothing_of_the_weights_size(form: str, dtype: torch.dtype) -> None:
    """x, once for all three modules (plain: not even that), the blocks, which are parameters, and nothing else."""
    saved, x = saved_by(BoneConfig(r=8, form=form, init_weights=False, target_modules=TARGETS), dtype)
    kept = of_size_of_x(saved)
    assert [t.untyped_storage()._cdata for t in kept] == ([] if form == "plain" else [x.untyped_storage()._cdata])


def test_the_count_sees_the_weights_that_pefts_bat_keeps() -> None:
    """The control."""
    saved, _ = saved_by(MissConfig(r=8, init_weights="bat", target_modules=TARGETS), torch.float32)
    assert sum(t.numel() == WIDTH * WIDTH for t in saved.values()) >= 3
