"""`linchain export` at the command line: what it prints, and what it answers to mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from linchain import LinChainConfig
from linchain.cli.app import main


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of `linchain export *words`."""
    monkeypatch.setattr(sys, "argv", ["linchain", "export", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapters for the tiny model: linchain, lora, ia3; and another model."""
    folder = tmp_path_factory.mktemp("adapters")
    targets = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    configs = {
        "linchain": LinChainConfig(r=4, init_weights=False, **targets),
        "lora": LoraConfig(r=4, init_lora_weights=False, **targets),
        "ia3": IA3Config(feedforward_modules=[], **targets),
    }
    for name, config in configs.items():
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(str(folder / name))
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    wider = LlamaConfig(vocab_size=400, hidden_size=64, intermediate_size=48, **sizes)
    LlamaForCausalLM(wider).save_pretrained(folder / "wider")
    sizes["num_hidden_layers"] = 1
    shorter = LlamaConfig(vocab_size=400, hidden_size=32, intermediate_size=48, **sizes)
    LlamaForCausalLM(shorter).save_pretrained(folder / "shorter")
    return folder


def test_it_says_what_was_verified_and_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, str(saved / "linchain"), str(out), "--to", "lora") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("verified: largest difference of the logits ")
    assert printed[-1] == f"plain LoRA adapter of rank 4 in {out}"
    assert run(monkeypatch, str(saved / "linchain"), str(out), "--to", "merged", "--overwrite") == 0
    assert not (out / "adapter_config.json").exists()


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(config))

    return edit


def _quantized(folder: Path) -> None:
    config = json.loads((folder.parent / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder.parent / "base" / "config.json").write_text(json.dumps(config))


MISTAKES: dict[str, tuple[str, Callable[[Path], Any] | None, list[str], str]] = {
    "unknown form": ("linchain", None, ["--to", "lroa"], "unknown --to 'lroa'; did you mean 'lora'?"),
    "unknown dtype": ("linchain", None, ["--to", "lora", "--dtype", "bf16"], "unknown --dtype 'bf16'; did you mean"),
    "no such folder": ("none", None, ["--to", "lora"], "does not exist"),
    "a model": ("base", None, ["--to", "lora"], "holds a whole model, not an adapter"),
    "no configuration": (
        "linchain",
        lambda folder: (folder / "adapter_config.json").unlink(),
        ["--to", "lora"],
        "is no adapter folder and no finished run: adapter_config.json is missing",
    ),
    "broken JSON": (
        "linchain",
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        ["--to", "lora"],
        "adapter_config.json cannot be read",
    ),
    "another method": ("ia3", None, ["--to", "lora"], "is an adapter of type 'IA3'. What converts: LinChain to lora, merged; LoRA to merged, linchain;"),
    "no weights": (
        "linchain",
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        ["--to", "lora"],
        "has no adapter_model.safetensors",
    ),
    "a pickle": ("linchain", _pickled, ["--to", "lora"], "only adapter_model.bin, which is a pickle and not read"),
    "cut short": ("linchain", _cut_short, ["--to", "lora"], "adapter_model.safetensors is corrupt or cut short"),
    "bad configuration": ("linchain", _edit(chain_length=-1), ["--to", "lora"], "chain_length must be an integer of"),
    "no base named": (
        "linchain",
        _edit(base_model_name_or_path=None),
        ["--to", "lora"],
        "does not say which model it was trained on; use --model",
    ),
    "base is gone": (
        "linchain",
        _edit(base_model_name_or_path="/models/gone"),
        ["--to", "lora"],
        "model folder /models/gone does not exist (named by the adapter; --model names another place)",
    ),
    "other widths": (
        "linchain",
        None,
        ["--to", "lora", "--model", "{saved}/wider"],
        "lora_A.weight has shape (4, 32), the base model needs (4, 64)",
    ),
    "other depth": ("linchain", None, ["--to", "merged", "--model", "{saved}/shorter"], "for which the base model has no"),
    "other modules": (
        "linchain",
        _edit(target_modules=["query_key_value"]),
        ["--to", "lora"],
        "Target modules {'query_key_value'} not found",
    ),
    "LoRA to LoRA": ("lora", None, ["--to", "lora"], "is a LoRA adapter already"),
    "LinChain to LinChain": ("linchain", None, ["--to", "linchain"], "is a LinChain adapter already"),
    "chain length of a LinChain": ("linchain", None, ["--to", "lora", "--chain-length", "2"], "--chain-length is for a LoRA"),
    "biases of no fork": ("lora", None, ["--to", "merged", "--mixer-biases"], "is no checkpoint of the authors' fork"),
    "a variant": ("lora", _edit(init_lora_weights="olora"), ["--to", "linchain"], "does not support init_lora_weights='olora'"),
    "no such text": ("linchain", None, ["--to", "lora", "--text", "none.txt"], "--text none.txt cannot be read"),
    "quantised base": ("linchain", _quantized, ["--to", "merged"], "is quantised (bitsandbytes): merging would have to"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(
    name: str,
    change: Callable[[Path], Any] | None,
    words: list[str],
    message: str,
    saved: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / name
    shutil.copytree(tiny_model, tmp_path / "base")
    if (saved / name).is_dir():
        shutil.copytree(saved / name, folder)
        _edit(base_model_name_or_path=str(tmp_path / "base"))(folder)
    if change:
        change(folder)
    out = tmp_path / "out"
    status = run(monkeypatch, str(folder), str(out), *(word.format(saved=saved) for word in words))
    printed = " ".join(capsys.readouterr().err.split())
    assert status == 2
    assert printed.startswith("error: ")
    assert message in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("notes.txt", [], "is not empty; choose another one, or --overwrite it"),
        ("notes.txt", ["--overwrite"], "holds neither an adapter nor a model, and is not overwritten"),
    ],
)
def test_an_output_folder_in_use(
    content: str,
    words: list[str],
    message: str,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / content).write_text("mine")
    assert run(monkeypatch, str(saved / "linchain"), str(tmp_path), "--to", "lora", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == [content]


def test_its_own_input_is_not_overwritten(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved / "linchain")
    assert run(monkeypatch, folder, folder, "--to", "lora", "--overwrite") == 2
    assert "holds what is to be exported" in " ".join(capsys.readouterr().err.split())
