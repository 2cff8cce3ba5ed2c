"""The README's commands, Python examples and configuration, run as they stand there (training shortened)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from linchain.cli.app import app
from linchain.lab.plan import load_plan
from linchain.training.load_config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["training.max_steps=2", "data.limit=32", "evaluation.limit=8"]
SMALL_PLAN = [*SHORT, "training.warmup_steps=0", "learning_rates=[1e-3]", "seeds=1", "cost.rounds=0"]
TINY_BENCH = [
    "--hidden",
    "64",
    "--bone-r",
    "32",
    "--sequence-length",
    "16",
    "--rounds",
    "1",
    "--only",
    "linchain,peft-lora",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("linchain ")]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert {command[0] for command in found} == {
        "train", "evaluate", "compare", "report", "export", "inspect", "methods", "bench"
    }  # fmt: skip
    shorter = {"train": SHORT, "compare": SMALL_PLAN, "evaluate": ["--limit", "8"], "bench": TINY_BENCH}
    for command in found:
        extra = shorter.get(command[0], [])
        extra = [*extra, "output=dry"] if "--dry-run" in command else extra
        result = CliRunner().invoke(app, [*command, *extra])
        assert result.exit_code == 0, (command, result.output, result.exception)
        if command[0] == "inspect":
            assert "28,434,432" in result.output
    assert (tmp_path / "runs/demo/lora/adapter_model.safetensors").is_file()
    assert (tmp_path / "runs/compare-demo/report.html").is_file()
    assert not (tmp_path / "dry").exists()


def test_python_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in blocks("python"):
        names: dict[str, Any] = {}
        exec(compile(example, "README.md", "exec"), names)
        assert names["model"].get_nb_trainable_parameters()[0] > 0
    assert (tmp_path / "my-adapter/adapter_model.safetensors").is_file()


def test_configuration(tmp_path: Path) -> None:
    run, plan = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(run, encoding="utf-8")
    assert load_config(tmp_path / "mine.yaml").output == "runs/mine"
    (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")
    assert len(load_plan(tmp_path / "plan.yaml").contestants) == 5


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).is_file(), target
