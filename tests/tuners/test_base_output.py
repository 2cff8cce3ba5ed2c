"""In-place updates of the base layer's output: only where nobody else holds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.pytorch_utils import Conv1D

from linchain import BoneConfig, LinChainConfig

CONFIGS: dict[str, PeftConfig] = {
    "linchain": LinChainConfig(r=4, chain_length=2, init_weights=False, target_modules=["0"]),
    "bone-row": BoneConfig(r=4, form="row", init_weights=False, target_modules=["0"]),
    "bone-plain": BoneConfig(r=4, form="plain", init_weights=False, target_modules=["0"]),
}
every_config = pytest.mark.parametrize("name", CONFIGS)


class Squashed(nn.Linear):
    """Its backward needs its output."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class Half(nn.Linear):
    """Its output is a part of something larger."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).split(8, -1)[0]


def adapted(name: str, layer: nn.Module) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(nn.Sequential(layer).double(), CONFIGS[name])


def base_of(model: PeftModel) -> nn.Module:
    return model.base_model.model[0].base_layer


@every_config
@pytest.mark.parametrize("kind", [nn.Linear, Squashed, Half, lambda i, o: Conv1D(o, i)])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 2, 3, 8)])
def test_gradients_whatever_the_base_layer_gives_out(name: str, kind: Any, shape: tuple[int, ...]) -> None:
    model, x = adapted(name, kind(8, 8)), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))


@every_config
@pytest.mark.parametrize("kind", [nn.Linear, Squashed])
def test_hooks_see_the_base_layers_own_output(name: str, kind: Any) -> None:
    model, x = adapted(name, kind(8, 8)), torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    base, held, gradients = base_of(model), [], []
    expected, wanted = model(x), torch.autograd.grad(model(x).square().sum(), x)[0]
    handles = [
        base.register_forward_hook(lambda *args: held.append(args[2])),
        base.register_full_backward_hook(lambda *args: gradients.append(args[2])),
        register_module_forward_hook(lambda module, _, y: held.append(y) if module is base else None),
    ]
    try:
        y = model(x)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], wanted)
    finally:
        for handle in handles:
            handle.remove()
    assert len(held) == 2
    assert len(gradients) == 1
    # what was held is not what was added to
    assert all(torch.equal(output, held[0]) and not torch.equal(output, y) for output in held)


@pytest.mark.parametrize("name", ["linchain", "bone-plain"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_biased_layer_costs_no_copy(name: str, bias: bool) -> None:
    """With a bias the output is a view, which autograd would copy as a whole to change in place (CopySlices)."""
    model, x = adapted(name, nn.Linear(8, 8, bias)), torch.randn(2, 3, 8, dtype=torch.float64)
    base_of(model).weight.requires_grad_()  # a weight that trains is not read past its layer
    assert type(model(x).grad_fn).__name__ in ("_AddUpdateBackward", "_AddLowRankBackward")


def test_hooks_on_the_factors_are_called() -> None:
    model, x = adapted("linchain", nn.Linear(8, 8)), torch.randn(2, 3, 8, dtype=torch.float64)
    expected, called = model(x), []
    layer = model.base_model.model[0]
    layer.lora_A["default"].register_full_backward_hook(lambda *_: called.append("A"))
    layer.lora_B["default"].register_forward_hook(lambda *_: called.append("B"))
    y = model(x)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert called == ["B", "A"]
