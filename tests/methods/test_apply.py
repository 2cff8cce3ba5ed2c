import pytest
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig, LinchainError
from linchain.methods.apply import adaptable_names, apply, check_targets


def test_targets_are_last_or_full_names(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    check_targets(model, ["q_proj", "model.layers.0.mlp.up_proj", "self_attn.k_proj"])
    assert {"q_proj", "down_proj", "embed_tokens", "lm_head"} <= set(adaptable_names(model))
    with pytest.raises(LinchainError, match="did you mean 'up_proj'"):
        check_targets(model, ["up_prj"])


def test_pefts_own_refusals_list_the_modules(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(LinchainError, match="The model's modules are: down_proj, embed_tokens"):
        apply(model, LinChainConfig(target_modules="no_such_.*"))


def test_what_peft_trips_over_is_answered(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(LinchainError, match="nothing to repeat"):
        apply(model, LinChainConfig(target_modules=["q_proj"], exclude_modules="*"))
