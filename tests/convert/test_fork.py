"""Checkpoints of the LinChain authors' own code, against that code's forward written out here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from linchain.convert import export
from linchain.errors import LinchainError

R, ALPHA, MIXERS = 4, 8, 3
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


class ForkLinear(nn.Module):
    """The forward of lora.Linear in the authors' fork: result += B(mixer_n(… mixer_1(A x))) · alpha / r."""

    def __init__(self, base: nn.Linear, mixer_bias: bool) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, R, bias=False)
        self.lora_mixer = nn.ModuleList([nn.Linear(R, R, bias=mixer_bias) for _ in range(MIXERS)])
        self.lora_B = nn.Linear(R, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lora_A(x)
        for mixer in self.lora_mixer:
            h = mixer(h)
        return self.base(x) + self.lora_B(h) * (ALPHA / R)


def fork_model(model: nn.Module, targets: list[str], mixer_bias: bool) -> nn.Module:
    torch.manual_seed(1)
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] in targets:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, ForkLinear(module, mixer_bias))
    return model


def save_fork(model: nn.Module, base: Path, folder: Path, rename: Any = lambda key: key) -> Path:
    """Save as the fork does: keys without an adapter's name, and a configuration that says LORA."""
    folder.mkdir()
    tensors = {f"base_model.model.{key}": value for key, value in model.state_dict().items() if ".lora_" in key}
    save_file({rename(key): value.contiguous() for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    config = {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "lora_use_mixer": True,
        "merge_weights": False,
        "mixer_num": MIXERS,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": R,
        "target_modules": TARGETS,
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def base_model(folder: Path, cls: Any = LlamaForCausalLM, config: Any = LlamaConfig, **options: Any) -> Path:
    """A random model without a tokenizer, its biases (where it has any) not zero."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = cls(config(vocab_size=50, num_key_value_heads=1, initializer_range=0.3, **sizes, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


IDS = torch.arange(24).view(2, 12)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key,
        lambda key: key.replace("lora_mixer.", "lora_mixer.default.").replace("lora_A.", "lora_A.default."),
    ],
    ids=["no adapter name", "adapter name"],
)
def test_without_biases_it_is_a_linchain(tmp_path: Path, rename: Any) -> None:
    from peft import PeftModel

    base = base_model(tmp_path / "base")
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=False)
    folder = save_fork(reference, base, tmp_path / "fork", rename)
    done = export(folder, tmp_path / "out", "linchain")
    assert "random token ids (no tokenizer)" in str(done.comparison)
    imported = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    assert imported.peft_config["default"].chain_length == MIXERS
    torch.testing.assert_close(logits(imported), logits(reference), rtol=0, atol=1e-5)


def test_biases_of_zero_are_no_biases(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=True)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "lora_mixer" in name and name.endswith("bias"):
                parameter.zero_()
    folder = save_fork(reference, base, tmp_path / "fork")
    assert export(folder, tmp_path / "out", "lora").comparison.passed


def test_moslora_keys(tmp_path: Path) -> None:
    global MIXERS
    base = base_model(tmp_path / "base")
    MIXERS, before = 1, MIXERS
    try:
        reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=False)
    finally:
        MIXERS = before
    folder = save_fork(reference, base, tmp_path / "fork", lambda key: key.replace("lora_mixer.0", "lora_AB"))
    done = export(folder, tmp_path / "out", "merged")
    assert done.comparison.passed
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(reference), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ({"attention_bias": True, "mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}),
        ({}, {"attention_bias": True, "mlp_bias": True}),
        ({"attention_bias": True}, {"attention_bias": True, "mlp_bias": True}),
    ],
    ids=["a base with biases", "a base without", "a base with some"],
)
def test_biases_are_kept_in_a_merged_model(tmp_path: Path, config: dict[str, bool], flags: dict[str, bool]) -> None:
    base = base_model(tmp_path / "base", **config)
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=True)
    folder = save_fork(reference, base, tmp_path / "fork")
    export(folder, tmp_path / "out", "merged", mixer_biases=True)
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {flag: getattr(merged.config, flag) for flag in flags} == flags
    torch.testing.assert_close(logits(merged), logits(reference), rtol=1e-5, atol=1e-5)
    without = AutoModelForCausalLM.from_pretrained(base)
    assert (logits(merged) - logits(without)).abs().max() > 0.1


@pytest.mark.parametrize("to", ["lora", "linchain", "merged"])
def test_biases_are_never_dropped(tmp_path: Path, to: str) -> None:
    base = base_model(tmp_path / "base")
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=True)
    folder = save_fork(reference, base, tmp_path / "fork")
    with pytest.raises(LinchainError, match=r"has mixer biases.*--mixer-biases"):
        export(folder, tmp_path / "out", to)
    if to != "merged":
        with pytest.raises(LinchainError, match="without them it is another function"):
            export(folder, tmp_path / "out", to, mixer_biases=True)
    assert not (tmp_path / "out").exists()


def test_an_architecture_without_a_place_for_them(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", Qwen2ForCausalLM, Qwen2Config)
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=True)
    folder = save_fork(reference, base, tmp_path / "fork")
    with pytest.raises(
        LinchainError, match=r"down_proj \(4 modules in all\) has no bias, and the configuration of a qwen2"
    ):
        export(folder, tmp_path / "out", "merged", mixer_biases=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{FIRST}.lora_mixer.1.weight"), r"has mixers \[0, 2\]; expected 0 … 2"),
        (
            lambda tensors: [
                tensors.update({key.replace(".weight", ".bias"): tensors.pop(key)})
                for key in list(tensors)
                if ".lora_mixer." in key
            ],
            "has keys of mixers, but no mixer's weight",
        ),
        (
            lambda tensors: tensors.update({f"{FIRST}.lora_mixer.0.bias": torch.zeros(5)}),
            r"the bias of mixer 0 has shape \(5,\); expected \(4,\)",
        ),
        (lambda tensors: tensors.pop(f"{FIRST}.lora_B.weight"), r"q_proj\.lora_A\.weight is there without"),
        (
            lambda tensors: tensors.update({f"{FIRST}.lora_mixer.0.weight": torch.zeros(5, 4)}),
            r"shape \(5, 4\); expected",
        ),
    ],
)
def test_broken_checkpoints(tmp_path: Path, change: Any, message: str) -> None:
    from safetensors.torch import load_file

    base = base_model(tmp_path / "base")
    reference = fork_model(AutoModelForCausalLM.from_pretrained(base), TARGETS, mixer_bias=False)
    weights = save_fork(reference, base, tmp_path / "fork") / "adapter_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    with pytest.raises(LinchainError, match=message):
        export(tmp_path / "fork", tmp_path / "out", "lora")


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
