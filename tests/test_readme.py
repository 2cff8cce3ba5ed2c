"""The README's commands, Python examples and configuration, run as they stand there (training shortened)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, run_page

README = ROOT / "README.md"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run_page(README)
    assert "28,434,432" in printed
    assert (tmp_path / "my-adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "runs/demo/lora/adapter_model.safetensors").is_file()
    assert (tmp_path / "runs/compare-demo/report.html").is_file()


def test_it_shows_every_command() -> None:
    commands = {command[0] for block in blocks(README) for command in block.commands}
    assert commands == {"train", "evaluate", "compare", "report", "export", "inspect", "methods", "bench"}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).is_file(), target
