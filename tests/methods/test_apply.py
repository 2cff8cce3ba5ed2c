import pytest
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig, LinchainError, methods
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
    with pytest.raises(LinchainError, match=r"is one text, .* a list is written \[q_proj, v_proj\]"):
        apply(model, LinChainConfig(target_modules="q_proj,v_proj"))


def test_what_peft_trips_over_is_answered(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(LinchainError, match="nothing to repeat"):
        apply(model, LinChainConfig(target_modules=["q_proj"], exclude_modules="*"))


@pytest.mark.parametrize("r", [10**17, 10**18, 10**30])
def test_an_adapter_that_no_memory_holds_is_refused(tiny_model, r):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(
        LinchainError, match=r"does not fit into memory \(.*\); lower r|The model's modules are"
    ) as refused:
        apply(model, LinChainConfig(r=r, target_modules=["q_proj"]))
    assert "\n" not in str(refused.value)


def test_the_users_options_stay_as_they_were():
    import transformers

    options = {"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier"]}
    before = {name: list(value) if isinstance(value, list) else value for name, value in options.items()}
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    # PEFT appends a classifier's head to modules_to_save
    methods.get("lora").adapt(transformers.BertForSequenceClassification(config), options, task_type="SEQ_CLS")
    assert options == before
