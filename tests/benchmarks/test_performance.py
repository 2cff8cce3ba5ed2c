"""The scripts for the promised figures: their dry runs go all the way, and their goals are read off rightly."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from linchain.bench import run
from linchain.bench.contestants import choose
from linchain.errors import LinchainError

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec: Any = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script into a folder; the fresh processes, which take seconds, are left to tests/bench/test_memory.py."""
    monkeypatch.setattr(run, "peaks_in_fresh_processes", lambda names, *_: dict.fromkeys(names, 2**20))

    def go(name: str) -> Path:
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path), "--dry-run"])
        script(name).main()
        return tmp_path

    return go


def test_every_goal_for_a_cpu_is_answered(dry_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    performance = script("performance")
    for size in performance.SIZES.values():
        choose(size.only, size.workload)
    out = dry_run("performance")
    text = (out / "performance.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    rows = text.split("\n\n")[0].splitlines()[2:]
    assert len(rows) == len(performance.GOALS)
    assert all(row.endswith((" yes |", " **no** |")) for row in rows)
    assert "| memory: memory of linchain / peft-lora | 0.76 | 1.000 (1 / 1 MiB) | **no** |" in rows
    assert sorted(path.stem for path in out.glob("*.json")) == sorted(performance.SIZES)


def test_figures_are_divided_and_compared() -> None:
    performance = script("performance")
    contestants = {
        "linchain": {
            "ratios": {"peft-lora": {"median": 0.8, "q1": 0.79, "q3": 0.815}},
            "added_per_module": {"operations": 20.6},
            "peak_bytes": 3 * 2**20,
        },
        "peft-lora": {"peak_bytes": 4 * 2**20},
        "unknown": {"peak_bytes": None},
    }
    goal = performance.Goal
    assert performance.found(goal("", "linchain", "peft-lora", 0.8), contestants) == (0.8, "0.800 [0.790–0.815]")
    of_memory = goal("", "linchain", "peft-lora", 0.8, of="memory")
    assert performance.found(of_memory, contestants) == (0.75, "0.750 (3 / 4 MiB)")
    assert performance.found(goal("", "linchain", "unknown", 0.8, of="memory"), contestants) == (None, "not measured")
    assert performance.found(goal("", "linchain", "", 21, of="operations"), contestants) == (20.6, "20.6")


def test_the_gpu_script_runs_through_on_a_cpu(dry_run: Any) -> None:
    out = dry_run("gpu")
    results = json.loads((out / "gpu.json").read_text())
    assert list(results["steps"]) == ["16x256", "4x256", "4x2048"]
    assert results["products"][0]["products"]["h = x A'"]["tflops"] > 0
    assert {(row["chain_length"], row["triton"]) for row in results["chain"]} == {
        (length, triton) for length in (0, 1, 3, 8) for triton in (True, False)
    }
    rows = (out / "gpu.md").read_text().splitlines()[4:]
    assert len(rows) == 5 + 2 + 2
    assert all(row.endswith((" yes |", " **no** |")) for row in rows)


def test_shapes_that_fail_or_get_no_time_are_named(dry_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first does not fit, the second takes so long that no time would be left for the third: the page says so."""
    steps = iter([None, {"contestants": {"linchain": {"seconds_per_step": {"median": 1e6}}}}])

    def in_one_process(*_: Any) -> Any:
        found = next(steps)
        if found is None:
            raise LinchainError("floor: out of memory")
        return {**found, "left_out": {"linchain": "it is slow", "peft-bat": "out of memory"}}

    monkeypatch.setattr(run, "in_one_process", in_one_process)
    out = dry_run("gpu")
    assert list(json.loads((out / "gpu.json").read_text())["steps"]) == ["4x256"]
    assert (out / "gpu.md").read_text().splitlines()[4:] == [
        "| 16x256 | | | not measured: floor: out of memory | | |",
        "| 4x256 | linchain / floor | 1.1 | linchain: it is slow |  |  |",
        "| 4x256 | bone-col / peft-bat | 0.3 | peft-bat: out of memory |  |  |",
        "| 4x2048 | | | not measured: the time is up | | |",
    ]


def test_too_small_a_gpu_leaves_what_was_measured_before(dry_run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def build(*_: Any) -> Any:
        raise LinchainError("the base model: out of memory")

    monkeypatch.setattr(run, "build", build)
    with pytest.raises(SystemExit):
        dry_run("gpu")
    assert json.loads((tmp_path / "gpu.json").read_text())["chain"]
    rows = (tmp_path / "gpu.md").read_text().splitlines()[4:]
    assert rows == [f"| {shape} | | | not measured | | |" for shape in ("16x256", "4x256", "4x2048")]


def test_what_does_not_fit_into_the_gpu_is_named() -> None:
    result = {"left_out": {"peft-bat": "out of memory"}, "contestants": {}}
    assert script("gpu")._found(result, "bone-col", "peft-bat", 0.3) == ("peft-bat: out of memory", "", "")


def test_generation_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["generation", "--hidden", "64", "--layers", "1", "--rounds", "1", "--tokens", "2"]
    )
    script("generation").main()
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| base model",
        "| base model, once more",
        "| linchain",
        "| linchain-n0",
        "| peft-lora",
        "| linchain, merged",
    ]
