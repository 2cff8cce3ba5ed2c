"""`linchain inspect` and `linchain methods`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from linchain import methods
from linchain.cli.app import app
from linchain.diagnostics import memory
from linchain.errors import LinchainError

TARGETS = "q_proj,k_proj,v_proj,up_proj,down_proj"
TABLE_1 = [
    (["--method", "lora", "--r", "16"], 28_311_552),
    (["--method", "moslora", "--r", "16"], 28_352_512),
    (["--method", "linchain", "--r", "16", "--chain-length", "3"], 28_434_432),
    (["--method", "linchain", "--chain-widths", "8,16,8"], 14_196_736),
]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the trace of 32 layers, which takes seconds; tests/diagnostics/test_memory.py measures it."""
    monkeypatch.setattr(memory, "_traced_peak", lambda *args: 2**30)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("arguments", "parameters"), TABLE_1)
def test_parameter_counts_of_the_papers_table_1(arguments: list[str], parameters: int) -> None:
    report = json.loads(run("inspect", "--model", "llama-3-8b", *arguments, "--targets", TARGETS, "--json"))
    assert report["trainable"] == parameters
    assert report["total"] == 8_030_261_248 + parameters
    assert report["percent"] == pytest.approx(100 * parameters / report["total"])
    assert report["saved_bytes"] == pytest.approx(4 * parameters, rel=2e-3)
    assert report["memory"]["weights"] == pytest.approx(2 * 8_030_261_248 + 4 * parameters)
    assert report["memory"]["activations"] == 2**30


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("method", "parameters", "saved"),
    [
        ("bone-col", 87_031_808, 87_031_808),
        ("bone-row", 72_876_032, 72_876_032),
        ("miss", 87_031_808, 87_031_808),
        ("lora-fa", 21_757_952, 39_976_960),
        ("pissa", 39_976_960, 2 * 39_976_960),
        ("full", 6_738_415_616, 6_738_415_616),
    ],
)
def test_what_is_trained_and_saved_on_llama_2_7b(method: str, parameters: int, saved: int) -> None:
    targets = [] if method == "full" else ["--targets", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"]
    report = json.loads(run("inspect", "--model", "llama-2-7b", "--method", method, *targets, "--json"))
    assert report["trainable"] == parameters
    assert report["saved_bytes"] == pytest.approx(4 * saved, rel=1e-3)


def test_the_list_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len(run("methods").splitlines()) == 1 + len(methods.names())


@pytest.mark.usefixtures("untraced")
def test_what_is_printed() -> None:
    printed = run("inspect", "--model", "llama-3-8b", "--targets", TARGETS)
    expected = ["28,434,432 (0.3528 % of 8,058,695,680)", "q_proj", "4,218,880", "gradients", "activations", "total"]
    assumptions = ["4 x 256 tokens", "without gradient checkpointing", "bfloat16", "float32", "AdamW", "sdpa"]
    printed = " ".join(printed.split())
    assert [text for text in expected + assumptions if text not in printed] == []


def test_options_by_key_and_value(tiny_model: Path) -> None:
    base = ["inspect", "--model", str(tiny_model), "--method", "lora", "--targets", "q_proj", "--json"]
    report = json.loads(run(*base, "r=4"))
    assert report["trainable"] == 2 * 4 * (32 + 32)
    assert report["memory"]["activations"] > 4 * 256 * 400 * 4  # the logits alone
    one_layer = json.loads(run(*base, "r=4", "layers_to_transform=[0]"))
    assert one_layer["trainable"] == 4 * (32 + 32)


def test_a_saved_adapter(tiny_model: Path, tmp_path: Path) -> None:
    config = methods.get("linchain").peft_config({"r": 4, "init_weights": False, "target_modules": ["q_proj"]})
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    report = json.loads(run("inspect", str(tmp_path), "--json"))
    assert report["kind"] == "linchain"
    assert report["parameters"] == 2 * (4 * 32 + 3 * 4 * 4 + 4 * 32)
    assert report["file_bytes"] == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert [4, 32] in [group["shape"] for group in report["tensors"]]
    assert {(group["dtype"], group["count"]) for group in report["tensors"]} == {("float32", 2)}
    assert [row["module"] for row in report["ranks"]] == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    for row in report["ranks"]:
        assert 1 <= row["stable"] <= row["participation"] <= row["entropy"] <= row["rank"] == 4
    printed = run("inspect", str(tmp_path))
    assert [text for text in ("entropy rank", "participation", "chain_length") if text not in printed] == []


def test_what_was_measured_along_a_training(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"step": step, "module": m, "norm": 2.0 * step, "entropy_rank": m, "stable_rank": 1.5, "participation_ratio": 3}
        for step in (0, 10, 20, 30, 35)
        for m in (2, 5)
    ]
    (tmp_path / "diagnostics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = json.loads(run("inspect", str(tmp_path), "--json"))["training"]
    assert [(row["step"], row["modules"], row["norm"], row["entropy"]) for row in training] == [
        (0, 2, 0, 3.5),
        (20, 2, 40, 3.5),
        (35, 2, 70, 3.5),
    ]
    config = methods.get("lora").peft_config({"r": 4, "target_modules": ["q_proj"]})
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "adapter")
    printed = " ".join(run("inspect", str(tmp_path)).split())
    assert [
        text for text in ("lora adapter in", "35 70 3.5 1.5 3", "Means over 2 modules") if text not in printed
    ] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "needs --model and --method"),
        (["--model", "llama-3-8"], "did you mean 'llama-3-8b'"),
        (["--model", "llama-3-8b", "--method", "lorra"], "unknown method 'lorra'; did you mean 'lora'"),
        (["--model", "llama-3-8b", "--targets", "q_proj,k_porj"], "no module 'k_porj'; did you mean 'k_proj'"),
        (["--model", "llama-3-8b", "--r", "0"], "r must be a positive integer, got 0"),
        (["--model", "llama-3-8b", "--r", "-3"], "r must be a positive integer, got -3"),
        (["--model", "llama-3-8b", "--chain-length", "-1"], "chain_length must be an integer of at least 0, got -1"),
        (["--model", "llama-3-8b", "--chain-widths", "8,x,8"], "--chain-widths takes positive integers"),
        (["--model", "llama-3-8b", "--chain-widths", "8,-1"], "chain_widths must be a positive integer, got -1"),
        (["--model", "llama-3-8b", "--chain-widths", "8,16,8", "--r", "16"], "r=16 does not fit chain_widths"),
        (["--model", "llama-3-8b", "--dtype", "bf16"], "unknown dtype 'bf16'"),
        (["--model", "llama-3-8b", "--batch-size", "0"], "batch size must be at least 1, got 0"),
        (
            ["--model", "llama-3-8b", "--sequence-length", "9000"],
            "sequence length 9000 is more than 'llama-3-8b' takes",
        ),
        (["--model", "llama-3-8b", "lora_alhpa=3"], "did you mean 'lora_alpha'"),
        (["--model", "llama-3-8b", "--r", "8", "r=4"], "r is given twice"),
        (["--model", "llama-3-8b", "some/adapter"], "not both"),
        (["a", "b"], "one adapter, got a, b"),
        (["no/such/folder"], "no/such/folder does not exist"),
    ],
)
def test_mistakes_are_named(arguments: list[str], expected: str) -> None:
    with pytest.raises(LinchainError) as caught:
        CliRunner().invoke(app, ["inspect", *arguments], catch_exceptions=False)
    assert expected in str(caught.value)


def test_the_catalogue_is_listed() -> None:
    printed = run("methods")
    assert all(name in printed for name in methods.names())
    assert all(method.equation in printed for method in methods.catalogue())
    details = " ".join(run("methods", "moslora").split())
    assert "2406.11909" in details
    assert "chain_length 1 Fixed" in details
    assert "lora_alpha 32" in details
