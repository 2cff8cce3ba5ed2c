"""Which parameters each method trains, at which learning rate."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from linchain import methods
from linchain.bench.counts import Operations


def adapted(tiny_model, name, **options):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], **options} if name != "full" else {}
    return methods.get(name).adapt(base, options, backward=lambda count: backward(base, count), task_type="CAUSAL_LM")


def backward(model, count):
    for step in range(count):
        tokens = torch.arange(8).view(1, 8) + step
        model(input_ids=tokens, labels=tokens).loss.backward()


def kinds(model, parameters):
    """The kinds (A, chain, B, …) of these parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {re.sub(r".*\.(lora|bone|miss)_", "", names[id(p)]).replace(".default", "") for p in parameters}


def groups(model, method, **options):
    """Kinds of trained parameters by (learning rate, weight decay)."""
    optimizer = methods.get(method).make_optimizer(model, options, lr=1e-3, weight_decay=0.1)
    return {
        (group["lr"], group["weight_decay"]): kinds(model, [p for p in group["params"] if p.requires_grad])
        for group in optimizer.param_groups
    }


def test_loraplus_trains_b_faster(tiny_model):
    found = groups(adapted(tiny_model, "loraplus"), "loraplus")
    assert found == {(1e-3, 0.1): {"A.weight"}, (16e-3, 0.1): {"B.weight"}}


def test_loraplus_trains_the_chain_as_fast_as_b(tiny_model):
    found = groups(adapted(tiny_model, "linchain-loraplus"), "linchain-loraplus", loraplus_lr_ratio=4)
    assert found == {(1e-3, 0.1): {"A.weight"}, (4e-3, 0.1): {"B.weight", "A.chain"}}


@pytest.mark.parametrize("method", ["linchain", "linchain-loraplus"])
def test_a_step_is_one_operation_a_group(tiny_model, method, tmp_path):
    """However many small tensors there are: Trainer's AdamW, and LoRA+'s."""
    model = adapted(tiny_model, method)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    trainer.optimizer = methods.get(method).make_optimizer(model, {}, lr=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    backward(model, 1)
    with Operations() as operations:
        optimizer.step()
    filled = [group for group in optimizer.param_groups if group["params"]]
    assert operations.counted["aten._fused_adamw_"] == len(filled) <= 2
    assert sum(len(group["params"]) for group in filled) >= 12


def test_lora_fa_trains_b_alone(tiny_model):
    model = adapted(tiny_model, "lora-fa")
    assert kinds(model, [p for p in model.parameters() if p.requires_grad]) == {"B.weight"}
    assert groups(model, "lora-fa") == {(1e-3, 0.1): {"B.weight"}}
    assert type(methods.get("lora-fa").make_optimizer(model, {}, 1e-3, 0.0)).__name__ == "LoraFAOptimizer"


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("lora", {"A.weight", "B.weight"}),
        ("dora", {"A.weight", "B.weight", "magnitude_vector.weight"}),
        ("linchain", {"A.weight", "A.chain", "B.weight"}),
        ("linchain-frozen", {"A.weight", "B.weight"}),
        ("lora-chain-start", {"A.weight", "B.weight"}),
        ("bone-col", {"block"}),
        ("miss", {"block"}),
    ],
)
def test_the_others_train_these_with_the_trainers_own_adamw(tiny_model, name, trained):
    model = adapted(tiny_model, name)
    assert kinds(model, [p for p in model.parameters() if p.requires_grad]) == trained
    assert methods.get(name).make_optimizer(model, {}, lr=1e-3, weight_decay=0.1) is None
