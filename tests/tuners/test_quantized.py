"""Chains and Bone over quantised layers."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from linchain import BoneConfig
from linchain.ops import block_affine, block_linear

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


def quantized_linear(kind: str, width: int = 64) -> tuple[nn.Module, torch.Tensor]:
    """A quantised layer of `width` inputs and 32 outputs, and its dense weight."""
    torch.manual_seed(0)
    plain = nn.Linear(width, 32, bias=True)
    if kind == "torchao":
        torchao = pytest.importorskip("torchao.quantization")
        model = nn.Sequential(plain)
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
        return model[0], model[0].weight.dequantize()
    bnb = pytest.importorskip("bitsandbytes")
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(width, 32, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(plain.weight.detach(), requires_grad=False, has_fp16_weights=False)
    else:
        quant_type, _, nested = kind.partition("-")
        storage = torch.bfloat16 if nested == "bf16" else torch.uint8
        options = {"quant_type": quant_type, "compress_statistics": nested == "nested", "quant_storage": storage}
        layer = bnb.nn.Linear4bit(width, 32, compute_dtype=torch.float32, **options)
        layer.weight = bnb.nn.Params4bit(plain.weight.detach(), requires_grad=False, **options)
    layer.bias = nn.Parameter(plain.bias.detach())
    layer = layer.to("cpu")
    if kind == "int8":
        layer(torch.zeros(1, width))  # moves its scales to where they are read from
    from peft.utils import resolve_quantization_backend

    return layer, resolve_quantization_backend(layer).get_base_weight(layer).float()


QUANTIZED = ("nf4", "nf4-nested", "nf4-bf16", "fp4", "int8", "torchao")


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("form", ["col", "row", "plain"])
def test_qbone(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a quantised base the output is that of the dequantised weight, moved; the blocks train; merging says its loss."""
    layer, dense = quantized_linear(kind)
    # three chunks of rows, the last one short
    monkeypatch.setitem(block_linear.CHUNK_BYTES, "cpu", 12 * 64 * 4)
    model = nn.Sequential(layer)
    model.is_loaded_in_4bit = True  # PEFT must not take it for something that it may cast
    torch.manual_seed(1)
    adapted = get_peft_model(
        model,
        BoneConfig(r=4, form=form, init_weights=False, target_modules=["0"]),
    ) if kind != "torchao" else bone_over_torchao(model, form)  # fmt: skip
    x = torch.randn(6, 64)
    block = adapted.base_model.model[0].bone_block["default"]
    assert block.dtype == torch.float32
    with adapted.disable_adapter():
        base_output = adapted(x)
    moved = block_affine.adapted_weight(dense, block, form)
    expected = nn.functional.linear(x, moved, layer.bias)
    # the base layer's own kernel may round its activations (int8); the adapter's share does not
    own = (base_output - nn.functional.linear(x, dense, layer.bias)).abs().max()
    torch.testing.assert_close(adapted(x), expected, rtol=0, atol=1e-4 + 2 * float(own))
    (ours,) = torch.autograd.grad(adapted(x).square().sum(), block)
    (wanted,) = torch.autograd.grad(expected.square().sum(), block)
    assert torch.linalg.norm(ours - wanted) <= (1e-4 + float(own)) * torch.linalg.norm(wanted)
    with pytest.warns(UserWarning, match="merged into quantised weights.*% of the update was lost"):
        adapted.merge_adapter()
    assert (adapted(x) - expected).abs().max() < 0.3 * (expected - base_output).abs().max() + 0.3
    adapted.unmerge_adapter()
    with adapted.disable_adapter():  # quantised weights are always kept
        assert torch.equal(adapted(x), base_output)


def bone_over_torchao(model: nn.Module, form: str) -> PeftModel:
    from types import SimpleNamespace

    torchao = pytest.importorskip("torchao.quantization")
    quantization = SimpleNamespace(get_apply_tensor_subclass=torchao.Int8WeightOnlyConfig)
    model.hf_quantizer = SimpleNamespace(quantization_config=quantization)
    config = BoneConfig(r=4, form=form, init_weights=False, target_modules=["0"])
    return get_peft_model(model, config)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_rows_are_those_of_the_whole_weight(kind: str) -> None:
    from peft.utils import resolve_quantization_backend

    from linchain.tuners.bone.stored import row_reader

    for width in (64, 96):  # 96 is no whole number of 4-bit blocks
        layer, dense = quantized_linear(kind, width)
        backend = resolve_quantization_backend(layer, get_apply_tensor_subclass=lambda: None)
        rows = row_reader(layer, backend)
        torch.testing.assert_close(rows(4, 17).float(), dense[4:17], rtol=0, atol=1e-6)
