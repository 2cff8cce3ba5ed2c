"""`linchain bench`, as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from linchain.bench import run
from linchain.cli.app import app
from linchain.errors import LinchainError

SIZES = {
    "hidden": 32,
    "intermediate": 64,
    "heads": 2,
    "vocab": 64,
    "sequence-length": 8,
    "r": 4,
    "bone-r": 8,
    "rounds": 2,
}
TINY = [f"--{name}={size}" for name, size in SIZES.items()]


def test_prints_a_table_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "peaks_in_fresh_processes", lambda names, *_: dict.fromkeys(names, 2**20))
    file = tmp_path / "new" / "bench.json"
    arguments = ["bench", *TINY, "--only", "linchain,peft-lora", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["linchain", *arguments])
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "A/A check: the floor against itself" in done.stdout
    rows = [line.split()[0] for line in done.stdout.partition("contestant")[2].splitlines()[1:5]]
    assert rows == ["floor", "floor-again", "linchain", "peft-lora"]
    result = json.loads(file.read_text())
    assert list(result["contestants"]) == rows
    assert result["rounds"] == 2
    assert result["command"].startswith("linchain bench ")


def test_mistakes_come_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "build", lambda *_: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--only", "linchian"], "did you mean 'linchain'"),
        (["--json", str(tmp_path / "file" / "bench.json")], "is a file"),
        (["--json", str(tmp_path)], "is a folder: give the name of a file"),
    ):
        with pytest.raises(LinchainError, match=message):
            CliRunner().invoke(app, ["bench", *TINY, *arguments], catch_exceptions=False)
