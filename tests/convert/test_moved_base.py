"""PiSSA, OLoRA, LoRA-GA and their chained kin as plain LoRA adapters of the base model as it was."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from linchain import methods
from linchain.convert.adapter import adapter_of
from linchain.convert.moved_base import for_whole_base, start_of
from linchain.methods.attach import attach

TOKENS = torch.arange(12).view(2, 6)


def moved(base, name, task, options) -> PeftModel:
    """An adapter whose factors have moved from a start that was taken out of the base weights."""

    def backward(count):
        for _ in range(count):
            base(TOKENS).logits.square().mean().backward()

    torch.manual_seed(0)
    options = {"target_modules": ["q_proj", "v_proj"], "r": 4, **options}
    return methods.get(name).adapt(base, options, backward, task_type=task)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pissa", {}),
        ("olora", {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 5}}),
        ("lora-ga", {}),
        ("linchain-pissa", {"chain_length": 2}),
        ("linchain-pissa", {"use_rslora": True, "init_weights": "identity"}),
        ("rslora", {"init_lora_weights": "pissa", "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
        ("lora", {"init_lora_weights": "pissa_niter_4"}),
    ],
)
def test_logits_on_the_whole_base_are_those_of_the_trained_model(tiny_model, name, options, task):
    options = {key: value for key, value in options.items() if key not in methods.get(name).fixed}
    auto = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification

    def fresh():
        torch.manual_seed(3)  # a classifier's head is drawn
        model = auto.from_pretrained(tiny_model)
        model.config.pad_token_id = 1
        return model

    model = moved(fresh(), name, task, options)
    start = start_of(model)
    # past the start everything is float64; what PEFT took out of the weights was rounded to float32
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    config, tensors = for_whole_base(*adapter_of(model, "default"), start)
    assert config.peft_type == "LORA"
    assert config.init_lora_weights is True
    plain = attach(fresh(), config, tensors).double()
    with torch.no_grad():
        expected, found = model.eval()(TOKENS).logits, plain(TOKENS).logits
        untrained = fresh().double()(TOKENS).logits
    assert (expected - untrained).abs().max() > 0.1
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_nothing_was_taken_out_by_an_ordinary_start(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert start_of(moved(base, "linchain", "CAUSAL_LM", {})) is None
    assert start_of(AutoModelForCausalLM.from_pretrained(tiny_model)) is None
