"""The memory estimate against the allocator, and that it leaves the model as it was."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, RobertaConfig

from linchain import methods
from linchain.diagnostics.memory import estimate_training_memory
from linchain.evaluation.quantization import Quantization, load_options, prepare
from linchain.ops import precision

BATCH, LENGTH = 4, 64
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def llama(
    method: str = "lora", dtype: torch.dtype = torch.float32, device: str = "cpu", **options: object
) -> peft.PeftModel:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(llama_config(), dtype=dtype)
        options["target_modules"] = TARGETS
        return peft.get_peft_model(model, methods.get(method).peft_config(options, task_type="CAUSAL_LM"))


def measured_peak(model: peft.PeftModel) -> int:
    """The most that PyTorch's CPU allocator hands out during a step, gradients being there from the step before."""
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    model.train()

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("method", "dtype", "options"),
    [
        ("lora", torch.float32, {}),
        ("lora", torch.bfloat16, {"lora_dropout": 0.1}),
        ("linchain", torch.float32, {"lora_dropout": 0.1}),
        ("linchain", torch.bfloat16, {}),
    ],
)
def test_activations_agree_with_the_allocator(
    monkeypatch: pytest.MonkeyPatch, method: str, dtype: torch.dtype, options: dict, checkpointing: bool
) -> None:
    # the estimate is of a device that multiplies bfloat16; one that emulates it needs temporaries in float32 besides
    monkeypatch.setattr(precision, "_is_emulated", lambda dtype: False)
    model = llama(method, dtype, **options)
    estimate = estimate_training_memory(
        model, batch_size=BATCH, sequence_length=LENGTH, gradient_checkpointing=checkpointing
    )
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert estimate.activations == pytest.approx(measured_peak(model), rel=0.10)


def test_parts_other_than_activations_are_exact() -> None:
    model = llama(dtype=torch.bfloat16)
    estimate = estimate_training_memory(model, batch_size=1, sequence_length=8)
    trainable, total = model.get_nb_trainable_parameters()
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert estimate.weights == 4 * trainable + 2 * (total - trainable) + buffers
    assert estimate.gradients == 4 * trainable
    assert estimate.optimizer == 8 * trainable
    assert estimate.activations is not None
    assert estimate.total == estimate.weights + estimate.gradients + estimate.optimizer + estimate.activations


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_agrees_with_the_allocator(kind: Quantization, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    plain = AutoModelForCausalLM.from_config(llama_config())
    plain.save_pretrained(tmp_path)
    base = prepare(AutoModelForCausalLM.from_pretrained(tmp_path, **load_options(kind, "auto", llama_config())))
    model = methods.get("linchain").adapt(base, {"target_modules": TARGETS}, task_type="CAUSAL_LM")
    estimate = estimate_training_memory(model, batch_size=BATCH, sequence_length=LENGTH)
    assert estimate.activations == pytest.approx(measured_peak(model), rel=0.10)
    assert "frozen weights float32/quantised" in estimate.assumptions[0]
    layers = sum(p.numel() for name, p in plain.named_parameters() if "_proj" in name)
    dense = 4 * (model.get_nb_trainable_parameters()[1] - layers)
    # 4 bits and a scale of 8 for 64 of them, a byte and a scale of 32 for each row of at least 128; and some tables
    share = {"nf4": 0.5 + 1 / 64, "int8": 1 + 4 / 128}[kind]
    assert estimate.weights == pytest.approx(dense + share * layers, rel=0.04)


def test_meta_and_real_models_get_the_same_estimate() -> None:
    real, meta = (
        estimate_training_memory(llama("linchain", device=device), batch_size=2, sequence_length=16)
        for device in ("cpu", "meta")
    )
    assert real == meta


def test_model_is_left_as_it_was() -> None:
    model = llama().eval()
    model.base_model.model.model.layers[1].train()
    before = {name: (module.training, dict(module.__dict__)) for name, module in model.named_modules()}
    estimate_training_memory(model, batch_size=1, sequence_length=8, gradient_checkpointing=True)
    for name, module in model.named_modules():
        assert (module.training, dict(module.__dict__)) == before[name]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(isinstance(p, torch._subclasses.FakeTensor) for p in model.parameters())


def test_sequence_classifier() -> None:
    config = RobertaConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = AutoModelForSequenceClassification.from_config(config)
    adapted = peft.get_peft_model(model, methods.get("lora").peft_config({}, task_type="SEQ_CLS"))
    small = estimate_training_memory(adapted, batch_size=2, sequence_length=16)
    large = estimate_training_memory(adapted, batch_size=4, sequence_length=16)
    assert small.activations is not None
    assert large.activations == pytest.approx(2 * small.activations, rel=0.1)


def test_a_forward_that_cannot_be_traced_is_said() -> None:
    model = llama()
    model.base_model.model.model.layers[0].register_forward_hook(lambda module, args, out: out * float(out.sum() > 0))
    estimate = estimate_training_memory(model, batch_size=1, sequence_length=8)
    assert estimate.activations is None
    assert "activations not estimated" in estimate.assumptions[-1]
