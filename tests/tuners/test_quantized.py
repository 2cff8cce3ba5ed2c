"""Chains over quantised layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .common import linchain


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_layers(bits: int) -> None:
    """The chain runs over a quantised layer, forward and backward; merging is within the quantisation's step."""
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32, bias=False))
    plain = model[0].weight.detach().clone()
    if bits == 8:
        layer = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(plain.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32)
        layer.weight = bnb.nn.Params4bit(plain.clone(), requires_grad=False)
    model[0] = layer.to("cpu")
    setattr(model, f"is_loaded_in_{bits}bit", True)
    inputs = torch.randn(5, 64)
    model = linchain(model, target_modules=["0"]).eval()
    with model.disable_adapter():
        base_output = model(inputs)
    adapted = model.base_model.model[0]
    assert type(adapted).__name__ == {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    delta = adapted.get_delta_weight("default")
    torch.testing.assert_close(model(inputs), base_output + inputs @ delta.T.to(inputs.dtype), rtol=0, atol=1e-5)
    model(inputs).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)
    expected = model(inputs)
    model.merge_adapter()
    step = (plain + delta).abs().max() / {4: 4, 8: 127}[bits]
    assert (model(inputs) - expected).abs().max() < 2 * step * inputs.norm(dim=1).max()


def test_torchao_int8_layers() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32, bias=False))
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    inputs = torch.randn(5, 64)
    base_output = model(inputs)
    model = linchain(model, target_modules=["0"]).eval()
    adapted = model.base_model.model[0]
    assert type(adapted).__name__ == "TorchaoLoraLinear"
    torch.testing.assert_close(
        model(inputs), base_output + inputs @ adapted.get_delta_weight("default").T, rtol=0, atol=1e-5
    )
