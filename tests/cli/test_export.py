"""`linchain export` at the command line: what it prints, and what it answers to mistakes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoraConfig, MissConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from linchain import BoneConfig, LinChainConfig
from linchain.cli.app import app, main
from linchain.convert.forms import TARGETS


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of `linchain export *words`."""
    monkeypatch.setattr(sys, "argv", ["linchain", "export", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapters for the tiny model: linchain, lora, ia3, bone, miss; and other models."""
    folder = tmp_path_factory.mktemp("adapters")
    targets = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    configs = {
        "linchain": LinChainConfig(r=4, init_weights=False, **targets),
        "lora": LoraConfig(r=4, init_lora_weights=False, **targets),
        "ia3": IA3Config(feedforward_modules=[], **targets),
        "bone-col": BoneConfig(r=8, form="col", init_weights=False, **targets),
        "bone-row": BoneConfig(r=8, form="row", init_weights=False, **targets),
        "miss": MissConfig(r=8, init_weights=False, **targets),
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


def test_an_approximation_says_so_and_by_how_much(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, str(saved / "bone-row"), str(out), "--to", "lora", "--svd-rank", "4") == 0
    read, stated, written = capsys.readouterr().out.splitlines()[-3:]
    assert read == f"read: bone-row adapter in {saved / 'bone-row'}"
    pattern = (
        r"not the same model: (relative error of the update (0\.\d+) at rank 4 \(Frobenius norm; 0\.\d+ in "
        r"model\.layers\.\d\.self_attn\.[qv]_proj, the worst module\)); largest difference of the logits \S+ \(largest logit .*"
    )
    found = re.fullmatch(pattern, stated)
    assert found
    assert 0.1 < float(found[2]) < 1
    assert found[1] in " ".join((out / "README.md").read_text().split())
    assert written == f"plain LoRA adapter of rank 4 (an approximation) in {out}"


def test_a_checkpoint_of_the_former_bone_is_named_first(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(saved / "bone-col", folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"init_weights": "bat"}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in ("form", "keep_weight")}))
    assert run(monkeypatch, str(folder), str(tmp_path / "out"), "--to", "miss") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"read: bone-col adapter, saved by PEFT's former Bone in {folder}"
    assert printed[1].startswith("verified: ")
    assert printed[2] == f"MiSS bat adapter with blocks of 8 in {tmp_path / 'out'}"


@pytest.mark.parametrize(("name", "kind", "shape"), [("bone-col", "bone", "4 x 8 x 8"), ("miss", "miss", "8 x 32")])
def test_inspect_knows_bone_and_miss(name: str, kind: str, shape: str, saved: Path) -> None:
    report = CliRunner().invoke(app, ["inspect", str(saved / name), "--json"], catch_exceptions=False)
    found = json.loads(report.stdout)
    assert found["kind"].startswith(kind)
    assert found["parameters"] == 2 * 8 * (32 + 16)
    assert [int(width) for width in shape.split(" x ")] in [group["shape"] for group in found["tensors"]]
    printed = CliRunner().invoke(app, ["inspect", str(saved / name)], catch_exceptions=False)
    assert printed.exit_code == 0
    assert f"adapter in {saved / name}" in printed.stdout.splitlines()[0]


def test_the_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    printed = CliRunner().invoke(app, ["export", "--help"]).stdout
    assert max(map(len, printed.splitlines())) <= 80
    help_of = " ".join(re.sub("[│╭╮╰╯─]", " ", printed).split())
    assert all(f"{form}:" in help_of or f"{form}, " in help_of for form in TARGETS)


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
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
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
    "another method": ("ia3", None, ["--to", "lora"], "is an adapter of type 'IA3'. What is read: LINCHAIN, LORA, BONE, MISS"),
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
        "does not say which model it was trained on; name it with --model",
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
    "rank 0": ("bone-col", None, ["--to", "lora", "--svd-rank", "0"], "--svd-rank must be a positive integer, got 0"),
    "a rank too large": (
        "bone-col",
        None,
        ["--to", "lora", "--svd-rank", "33"],
        "--svd-rank 33 is more than any adapted weight has; at rank 32 nothing is lost",
    ),
    "rank of an exact form": (
        "bone-col",
        None,
        ["--to", "merged", "--svd-rank", "4"],
        "--svd-rank is for updates of full rank and --to lora; {folder} is a bone-col adapter, and --to merged is exact",
    ),
    "rank of a LoRA": ("miss", None, ["--to", "lora", "--svd-rank", "4"], "is a MiSS adapter, and --to lora is exact"),
    "Bone to LoRA": (
        "bone-row",
        None,
        ["--to", "lora"],
        "is a bone-row adapter, and no LoRA equals it: its update W·B + B depends on the weights W and has full rank.",
    ),
    "Bone to LoRA, what to do": (
        "bone-row",
        None,
        ["--to", "lora"],
        "comes closest, and says how close. It converts to merged, lora (approximately, with --svd-rank)",
    ),
    "Bone to Bone": ("bone-col", None, ["--to", "bone"], "is a bone-col adapter already. It converts to merged, miss, lora"),
    "LinChain to Bone": (
        "linchain",
        None,
        ["--to", "bone"],
        "is a LinChain adapter, which does not convert to bone. It converts to lora, merged",
    ),
    "MiSS to Bone": (
        "miss",
        None,
        ["--to", "bone"],
        "is a MiSS adapter, which does not convert to bone. It converts to lora, merged",
    ),
    "nearly a form": ("miss", None, ["--to", "mis"], "unknown --to 'mis'; did you mean 'miss'? Accepted: bone, linchain,"),
    "Bone of other blocks": ("bone-col", _edit(r=4), ["--to", "merged"], "which holds no blocks of r = 4"),
    "unknown Bone": ("bone-col", _edit(form="rows"), ["--to", "merged"], "form='rows' is unknown; did you mean 'row'"),
    "LoRA to LoRA": ("lora", None, ["--to", "lora"], "is a LoRA adapter already"),
    "LinChain to LinChain": ("linchain", None, ["--to", "linchain"], "is a LinChain adapter already"),
    "chain length of a LinChain": ("linchain", None, ["--to", "lora", "--chain-length", "2"], "--chain-length is for a LoRA"),
    "biases of no fork": ("lora", None, ["--to", "merged", "--mixer-biases"], "is no checkpoint of the authors' fork"),
    "a variant": ("lora", _edit(init_lora_weights="olora"), ["--to", "linchain"], "does not support init_lora_weights='olora'"),
    "no such text": ("linchain", None, ["--to", "lora", "--text", "none.txt"], "--text none.txt cannot be read"),
    "quantised base": (
        "linchain",
        _quantized,
        ["--to", "merged"],
        "is quantised (gptq), and linchain makes only weights of bitsandbytes and torchao dense again. Name the model it was",
    ),
    "unknown quantisation": (
        "linchain",
        lambda folder: (folder / "quantization.json").write_text('{"quantization": "nf5", "dtype": "auto"}'),
        ["--to", "merged"],
        "unknown quantization in {folder}/quantization.json 'nf5'; did you mean 'nf4'?",
    ),
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
    assert message.replace("{folder}", str(folder)) in printed
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
