"""Every code block of the docs runs as it stands, training shortened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from linchain.cli.app import app
from tests.docs.pages import ROOT, blocks, parse, run_page

DOCS = sorted((ROOT / "docs").glob("*.md"))
# its commands are those that figures were measured with, for hours
MEASURED = "results.md"
RUN = [page for page in DOCS if page.name != MEASURED and blocks(page)]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


def right(predictions: Path) -> int:
    return sum(json.loads(line)["correct"] for line in predictions.read_text(encoding="utf-8").splitlines())


def test_the_first_training_makes_the_model_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newcomer's first command does, as it stands on the page and at its full length."""
    monkeypatch.chdir(tmp_path)
    page = blocks(DOCS[0].parent / "start.md")
    exec(next(block.text for block in page if block.language == "python"), {})
    configuration = next(block for block in page if block.title == "mine.yaml")
    Path("mine.yaml").write_text(configuration.text, encoding="utf-8")
    result = CliRunner().invoke(app, ["train", "mine.yaml"])
    assert result.exit_code == 0, result.output
    before, after = (right(Path(f"runs/mine/predictions/{when}.jsonl")) for when in ("before", "after"))
    assert after > before + 10  # of 50


def test_the_commands_behind_figures_are_ones_that_linchain_takes() -> None:
    commands = [command for block in blocks(ROOT / "docs" / MEASURED) for command in block.commands]
    assert commands
    for command in commands:
        parse(command)


def test_few_blocks_are_not_run() -> None:
    not_run = [block for page in [*DOCS, ROOT / "README.md"] for block in blocks(page) if block.reason]
    assert all(block.language in ("bash", "python") for block in not_run)
    assert len(not_run) <= 10
