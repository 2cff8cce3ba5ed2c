"""Default target modules, and modules that are refused because an adapter on them would be ignored or wrong."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from linchain import BoneConfig, LinChainConfig, LinChainModel
from linchain.errors import LinchainError
from tests.integrations.tiny_models import ARCHITECTURES

RWKV = {
    *("attention.key", "attention.value", "attention.receptance", "attention.output"),
    *("feed_forward.key", "feed_forward.value", "feed_forward.receptance"),
}
# every module of a layer that must be adapted, and no other
DEFAULTS = {
    ("linchain", "llama"): {
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        *("mlp.up_proj", "mlp.down_proj"),
    },
    ("linchain", "mistral"): {"self_attn.q_proj", "self_attn.v_proj"},
    ("linchain", "roberta"): {
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        "intermediate.dense",
    },
    ("linchain", "deberta-v3"): {
        *("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        "intermediate.dense",
    },
    ("linchain", "rwkv"): RWKV,
    ("bone", "llama"): {
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    },
    ("bone", "mistral"): {"self_attn.q_proj", "self_attn.v_proj"},
    ("bone", "roberta"): {"attention.self.query", "attention.self.value"},
    ("bone", "rwkv"): RWKV,
}
CONFIGS: dict[str, Any] = {"linchain": LinChainConfig(), "bone": BoneConfig(r=8)}


def adapt(name: str, config: Any, **sizes: Any) -> Any:
    architecture = ARCHITECTURES[name]
    return get_peft_model(dataclasses.replace(architecture, sizes=architecture.sizes | sizes).build(), config)


@pytest.mark.parametrize(("method", "name"), DEFAULTS)
def test_defaults(method: str, name: str) -> None:
    model = adapt(name, copy.copy(CONFIGS[method]))
    adapted = [key for key, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for layer in (".0.", ".1."):
        assert {key.partition(layer)[2] for key in adapted if layer in key} == DEFAULTS[method, name]
    assert len(adapted) == 2 * len(DEFAULTS[method, name])


def test_pefts_own_defaults_stay_and_hold_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LoraModel.target_module_mapping["llama"] == ["q_proj", "v_proj"]
    monkeypatch.setitem(LoraModel.target_module_mapping, "new", ["lin"])
    assert LinChainModel.target_module_mapping["new"] == ["lin"]


def without_gradient(model: Any, name: str) -> set[str]:
    """The adapted modules of which no parameter gets a gradient in training."""
    model.zero_grad()
    model.train()(**ARCHITECTURES[name].batch()).loss.backward()
    trainable = [(key.partition(".lora_")[0], p.grad) for key, p in model.named_parameters() if p.requires_grad]
    reached = {key for key, gradient in trainable if gradient is not None}
    return {key.rpartition(".")[2] for key, _ in trainable if key not in reached}


@pytest.mark.parametrize("module", ["conv1d", "dt_proj", "out_proj", "x_proj"])
def test_modules_that_mamba_does_not_call_are_refused(module: str) -> None:
    with pytest.raises(LinchainError, match=f"LinChain: module '{module}' is incompatible with Mamba.*in_proj can be"):
        adapt("mamba", LinChainConfig(target_modules=["in_proj", module]))
    if module != "conv1d":  # which Bone refuses anywhere
        with pytest.raises(LinchainError, match=f"Bone: module '{module}' is incompatible with Mamba"):
            adapt("mamba", BoneConfig(r=8, target_modules=["in_proj", module]))


def test_what_is_left_of_mamba_can_be_adapted() -> None:
    refused = ["dt_proj", "out_proj", "x_proj"]
    model = adapt("mamba", LinChainConfig(target_modules="all-linear", exclude_modules=refused))
    assert {key.rpartition(".")[2] for key in model.targeted_module_names} == {"in_proj"}


def test_why_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PEFT's LoRA, which takes two of them: dt_proj never trains, x_proj not where there is a fused kernel."""
    model = adapt("mamba", LoraConfig(target_modules=["in_proj", "x_proj", "dt_proj"]))
    assert without_gradient(model, "mamba") == {"dt_proj"}

    def kernel(xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_weight: Tensor, *weights: Any, **_: Any) -> Tensor:
        x, gate = xz.transpose(1, 2).chunk(2, dim=-1)
        return F.linear(x * gate * F.linear(x, x_weight).mean(), weights[1])

    # a stand-in for the CUDA kernel, which is called with the weights
    monkeypatch.setattr("transformers.models.mamba.modeling_mamba.mamba_inner_fn", kernel)
    assert without_gradient(model, "mamba") == {"x_proj", "dt_proj"}


@pytest.mark.parametrize("module", ["output", "value"])
def test_modules_that_rwkv_rescales_are_refused(module: str) -> None:
    with pytest.raises(LinchainError, match=f"LinChain: for inference this RWKV halves the weights of '{module}'"):
        adapt("rwkv", LinChainConfig(target_modules=["key", module]), rescale_every=1)
    with pytest.raises(LinchainError, match=f"Bone: for inference this RWKV halves the weights of '{module}'"):
        adapt("rwkv", BoneConfig(r=8, target_modules=["key", module]), rescale_every=1)
    adapt("rwkv", LinChainConfig(target_modules=["key", "receptance"]), rescale_every=1)
    adapt("rwkv", LinChainConfig(target_modules=["key", module]), rescale_every=0)


@pytest.mark.parametrize(("rescale_every", "right"), [(0, True), (1, False)])
def test_why_rescaled_modules_are_refused(rescale_every: int, right: bool) -> None:
    """PEFT's LoRA: what a rescaling RWKV computes for inference is not what it computed in training."""
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["output"], init_lora_weights=False)
    model = adapt("rwkv", config, rescale_every=rescale_every)
    batch = ARCHITECTURES["rwkv"].batch()
    with torch.no_grad():
        trained, inference = model.train()(**batch).logits, model.eval()(**batch).logits
    assert torch.allclose(trained, inference, atol=1e-4) == right
