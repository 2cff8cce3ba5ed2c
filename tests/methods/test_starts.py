"""What the methods start as, where that is more than what PEFT draws."""

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig, methods
from linchain.convert.moved_base import check_moved
from linchain.diagnostics import architectures
from linchain.errors import LinchainError
from linchain.methods.apply import apply
from linchain.methods.attach import attach
from tests.methods.test_optimizers import adapted

TOKENS = torch.arange(12).view(2, 6)


def layers(model):
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("init", [True, "orthogonal"])
def test_the_control_starts_as_the_chain_does(tiny_model, init):
    chained = adapted(tiny_model, "linchain", chain_length=2, init_weights=init)
    plain = adapted(tiny_model, "lora-chain-start", chain_length=2, init_weights=init)
    for one, other in zip(layers(chained), layers(plain), strict=True):
        assert torch.equal(one.lora_A["default"].folded_weight(), other.lora_A["default"].weight)
        assert not hasattr(other.lora_A["default"], "chain")


@pytest.mark.parametrize("name", ["pissa", "olora", "lora-ga", "linchain-pissa"])
def test_a_start_that_moves_the_base_leaves_the_model_as_it_was(tiny_model, name):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = adapted(tiny_model, name)
    layer = layers(model)[0]
    assert layer.lora_B["default"].weight.abs().max() > 1e-3
    moved = layer.get_base_layer().weight
    assert (moved - base.model.layers[0].self_attn.q_proj.weight).abs().max() > 1e-4
    with torch.no_grad():
        assert torch.allclose(model(TOKENS).logits, base(TOKENS).logits, atol=1e-4)


def test_linchain_pissa_starts_from_pissas_a_and_b(tiny_model):
    for one, other in zip(
        layers(adapted(tiny_model, "pissa")), layers(adapted(tiny_model, "linchain-pissa")), strict=True
    ):
        for factors in ("lora_A", "lora_B"):
            assert torch.equal(getattr(one, factors)["default"].weight, getattr(other, factors)["default"].weight)


def test_full_fine_tuning_trains_all_in_float32(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model = methods.get("full").adapt(base, {}, task_type="CAUSAL_LM")
    assert model is base
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, True)}


@pytest.mark.parametrize("name", methods.names())
def test_nothing_is_computed_from_weights_without_data(name, monkeypatch):
    for decomposition in (torch.linalg, "svd"), (torch.linalg, "qr"), (torch, "svd_lowrank"):
        monkeypatch.setattr(*decomposition, lambda *_, **__: pytest.fail("decomposed"))
    config = architectures.load_config("llama-3-8b")
    config.num_hidden_layers = 2
    options = {} if name == "full" else {"target_modules": ["q_proj"]}
    model = methods.get(name).adapt(architectures.build(config), options, task_type="CAUSAL_LM")
    assert all(parameter.is_meta for parameter in model.parameters())


def test_lora_ga_needs_gradients_and_room_for_its_rank(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(LinchainError, match="method 'lora-ga' starts from gradients"):
        methods.get("lora-ga").adapt(base, {"r": 4, "target_modules": ["q_proj"]})
    with pytest.raises(LinchainError, match=r"r 12 is too large for model.layers.0.self_attn.v_proj.*\(16, 32\)"):
        adapted(tiny_model, "lora-ga", rank_pattern={"v_proj": 12})


def test_what_no_adapter_could_make_up_for_is_refused(tiny_model):
    with pytest.raises(LinchainError, match=r"'pissa' cannot start model.layers.0.self_attn.v_proj: r 17 is more than"):
        check_moved(adapted(tiny_model, "pissa", r=17))
    tied = AutoModelForCausalLM.from_pretrained(tiny_model)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    model = apply(tied, peft.LoraConfig(r=4, init_lora_weights="pissa", target_modules=["lm_head"]))
    with pytest.raises(LinchainError, match="'pissa' cannot start lm_head: its weight is shared with another module"):
        check_moved(model)
    check_moved(adapted(tiny_model, "lora", r=17))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            peft.LoraConfig(init_lora_weights="lora_ga", lora_ga_config={}),
            "it fits only the weights that its gradients",
        ),
        (LinChainConfig(target_modules="(q_proj"), "made for another model"),
    ],
)
def test_an_adapter_that_cannot_be_attached_is_refused(tiny_model, config, message):
    with pytest.raises(LinchainError, match=message):
        attach(AutoModelForCausalLM.from_pretrained(tiny_model), config, {})
