"""What every method must do on every kind of layer. float64 throughout unless a test says otherwise."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linchain import LinChainConfig
from linchain.convert import fold_to_lora

from .cases import LAYERS, METHODS, Layer, Method
from .reference import gradients, reference_output

EXACT = {"rtol": 1e-12, "atol": 1e-12}
# PEFT does not route a mixed batch through these
NO_MIXED_BATCH = {"attention", "parameter", "experts"}
# PEFT's own forward of these changes modules on the way, which no compiler traces in one graph
NO_FULL_GRAPH = {"attention", "parameter", "experts"}

SUPPORTED = [
    pytest.param(method, layer, id=f"{method.name}-{layer.name}")
    for method in METHODS
    for layer in LAYERS
    if layer.name not in method.refuses and layer.name in (method.layers or [layer.name])
]
REFUSED = [
    pytest.param(method, layer, id=f"{method.name}-{layer.name}")
    for method in METHODS
    for layer in LAYERS
    if layer.name in method.refuses
]
every_case = pytest.mark.parametrize(("method", "layer"), SUPPORTED)


def adapt(
    method: Method, layer: Layer, *, dtype: torch.dtype = torch.float64, random: bool = True, **options
) -> PeftModel:
    """A model with a random adapter (B is not zero), or with `random=False` one as users start it; deterministic."""
    base, x = layer.model(dtype), layer.sample(dtype)
    torch.manual_seed(3)
    return method.adapt(base, x, random=random, **layer.targets, **options)


def adapted_layer(model: PeftModel) -> BaseTunerLayer:
    layer = model.base_model.model.layer
    assert isinstance(layer, BaseTunerLayer)
    return layer


def trainable(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(("method", "layer"), REFUSED)
def test_refusal_names_the_feature(method: Method, layer: Layer) -> None:
    with pytest.raises((ValueError, TypeError), match=method.refuses[layer.name]):
        adapt(method, layer)


@every_case
def test_identity_at_step_0(method: Method, layer: Layer) -> None:
    model = adapt(method, layer, random=False)
    tolerance = {"rtol": 0, "atol": 1e-5} if method.moves_base else EXACT
    torch.testing.assert_close(model(layer.sample()), layer.model()(layer.sample()), **tolerance)


@every_case
def test_only_the_adapter_is_trainable(method: Method, layer: Layer) -> None:
    model = adapt(method, layer)
    assert trainable(model)
    for name, parameter in model.named_parameters():
        frozen = method.frozen is not None and re.search(method.frozen, name)
        assert parameter.requires_grad == (method.prefix in name and not frozen), name
    gradients(model(layer.sample()), trainable(model))


@every_case
def test_forward_and_gradients_equal_the_reference(method: Method, layer: Layer) -> None:
    model, x = adapt(method, layer), layer.sample()
    config = model.peft_config["default"]
    parameters = trainable(model)
    output = model(x)
    expected = reference_output(layer, layer.model(), adapted_layer(model), config, x)
    torch.testing.assert_close(output, expected, **EXACT)
    for ours, plain in zip(gradients(output, parameters), gradients(expected, parameters), strict=True):
        torch.testing.assert_close(ours, plain, **EXACT)
    assert all(g.abs().sum() > 0 for g in gradients(output, parameters))


@every_case
@pytest.mark.parametrize("safe", [False, True], ids=["merge", "safe-merge"])
def test_merge_equals_forward_and_unmerge_restores(method: Method, layer: Layer, safe: bool) -> None:
    model, x = adapt(method, layer).eval(), layer.sample()
    expected = model(x)
    model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(model(x), expected, **EXACT)
    model.unmerge_adapter()
    # PEFT inverts in float32 there
    restored = {"rtol": 0, "atol": 1e-4} if method.name == "miss-bat" else EXACT
    torch.testing.assert_close(model(x), expected, **restored)
    if method.moves_base:
        return
    with model.disable_adapter():
        torch.testing.assert_close(model(x), layer.model().eval()(x), **restored)


@every_case
def test_merge_and_unload_leaves_a_plain_model(method: Method, layer: Layer) -> None:
    model, x = adapt(method, layer).eval(), layer.sample()
    expected = model(x)
    plain = model.merge_and_unload()
    assert not any(isinstance(module, BaseTunerLayer) for module in plain.modules())
    torch.testing.assert_close(plain(x), expected, **EXACT)


@every_case
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True], ids=["plain", "meta"])
def test_save_and_load(method: Method, layer: Layer, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    if method.moves_base:
        pytest.skip("runs save a plain LoRA for the base as it was instead (tests/convert/test_moved_base.py)")
    model, x = adapt(method, layer).eval(), layer.sample()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(layer.model(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    saved, restored = get_peft_model_state_dict(model), get_peft_model_state_dict(loaded)
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[key], restored[key]) for key in saved)
    torch.testing.assert_close(loaded(x), model(x), **EXACT)
    ours, theirs = model.peft_config["default"].to_dict(), loaded.peft_config["default"].to_dict()
    # what PEFT itself fills in on saving
    assert {**ours, "inference_mode": True, "auto_mapping": theirs["auto_mapping"]} == theirs


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bf16-base"])
def test_folded_lora_equals_forward(method: Method, layer: Layer, dtype: torch.dtype) -> None:
    if method.config_cls is not LinChainConfig:  # the catalogue's own tests export its methods
        pytest.skip("nothing to fold")
    model, x = adapt(method, layer, dtype=dtype).eval(), layer.sample(dtype)
    config, state = fold_to_lora(model)
    lora = get_peft_model(layer.model(dtype), config).eval()
    assert not set_peft_model_state_dict(lora, state).unexpected_keys
    assert not any("chain" in name for name in lora.state_dict())
    # over a bf16 base PEFT multiplies in float32, and LinChain's linear layers in bf16 with factors rounded once
    tolerance = 1e-12 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(lora(x), model(x), rtol=0, atol=tolerance)


@every_case
def test_several_adapters(method: Method, layer: Layer) -> None:
    if method.moves_base:
        pytest.skip("a second start would be taken out of the base weight, too")
    model, x = adapt(method, layer).eval(), layer.sample()
    first = model(x)
    model.add_adapter("other", method.config(**{**method.random, **layer.targets}))
    torch.testing.assert_close(model(x), first, **EXACT)
    model.set_adapter("other")
    second = model(x)
    assert (first - second).abs().max() > 1e-6
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".other" in name), name
    model.set_adapter("default")
    torch.testing.assert_close(model(x), first, **EXACT)
    model.delete_adapter("other")
    assert not [name for name in model.state_dict() if ".other" in name]
    torch.testing.assert_close(model(x), first, **EXACT)


@every_case
def test_mixed_batch(method: Method, layer: Layer) -> None:
    if layer.name in NO_MIXED_BATCH or "dora" in method.name or method.prefix != "lora_" or method.moves_base:
        pytest.skip("PEFT does not support mixed batches here")
    model, x = adapt(method, layer).eval(), layer.sample()
    model.add_adapter("other", method.config(**{**method.random, **layer.targets}))
    alone = {"default": model(x)}
    model.set_adapter("other")
    alone["other"] = model(x)
    with model.disable_adapter():
        alone["__base__"] = model(x)
    names = ["default", "other", "__base__", "other", "default"]
    mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row], **EXACT)


@every_case
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_gradient_checkpointing(method: Method, layer: Layer, use_reentrant: bool) -> None:
    model, x = adapt(method, layer), layer.sample()
    expected = gradients(model(x), trainable(model))
    if x.is_floating_point():
        x.requires_grad_()
    elif use_reentrant:
        pytest.skip("reentrant checkpointing needs an input with a gradient")
    output = checkpoint(model, x, use_reentrant=use_reentrant)
    torch.manual_seed(2)
    (output * torch.randn_like(output)).sum().backward()
    for parameter, gradient in zip(trainable(model), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **EXACT)


@every_case
def test_compiles_without_graph_breaks(method: Method, layer: Layer) -> None:
    if layer.name in NO_FULL_GRAPH or "dora" in method.name:
        pytest.skip("PEFT's forward of this layer has graph breaks of its own")
    torch.compiler.reset()
    model, x = adapt(method, layer), layer.sample()
    expected = gradients(model(x), trainable(model))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), **EXACT)
    for ours, eager in zip(gradients(compiled(x), trainable(model)), expected, strict=True):
        torch.testing.assert_close(ours, eager, **EXACT)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_low_precision_base(method: Method, layer: Layer, dtype: torch.dtype) -> None:
    """float32 adapters over a low-precision base: within a few roundings of the float64 model with the same values."""
    model, x = adapt(method, layer, dtype=dtype).eval(), layer.sample(dtype)
    assert {p.dtype for p in trainable(model)} == {torch.float32}
    output = model(x)
    assert output.dtype == dtype
    exact = copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x)
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)
    gradients(model(x), trainable(model))
    model.merge_adapter()
    torch.testing.assert_close(model(x).double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)


@every_case
def test_autocast(method: Method, layer: Layer) -> None:
    model, x = adapt(method, layer, dtype=torch.float32), layer.sample(torch.float32)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        (output.float() ** 2).sum().backward()
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=8 * torch.finfo(torch.bfloat16).eps)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trainable(model))


@every_case
def test_copies_and_pickles(method: Method, layer: Layer) -> None:
    model, x = adapt(method, layer).eval(), layer.sample()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x), **EXACT)
        if not method.moves_base:
            twin.add_adapter("other", method.config(**layer.targets))
