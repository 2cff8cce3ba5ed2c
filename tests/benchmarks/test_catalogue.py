"""The script that puts the catalogue on one model: its runs are valid for every method, and its figures are what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from linchain import methods
from linchain.training.load_config import build_config
from tests.conftest import shared_dir

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "catalogue.py"


@pytest.fixture
def script() -> ModuleType:
    spec: Any = importlib.util.spec_from_file_location("catalogue", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_valid_run(script: ModuleType, name: str, tmp_path: Path) -> None:
    config = build_config(script.configuration(name, 1e-3, tmp_path, Path("shared")))
    method = methods.get(name)
    assert config.method.name == name
    assert config.training.max_steps == script.STEPS
    method.peft_config(config.method.options)


def test_the_rate_is_chosen_by_validation_and_failures_are_left_out(script: ModuleType) -> None:
    found = {
        "lora": {1e-3: {"validation": 2.0}, 1e-2: {"validation": 1.0}, 1e-1: {"error": "diverged"}},
        "miss": {1e-3: {"error": "diverged"}},
    }
    assert script.chosen_rates(found) == {"lora": 1e-2}


def test_differences_are_paired_by_record(script: ModuleType) -> None:
    """Records differ far more than methods do: only a paired interval can be this narrow."""
    random = np.random.default_rng(0)
    tokens = random.integers(5, 20, size=50).astype(float)
    lora = np.stack([np.stack([random.normal(3, 1, 50) * tokens, tokens], axis=-1) for _ in range(3)])
    better = lora.copy()
    better[..., 0] -= 0.5 * tokens
    assert script.over_lora(better, lora) == "-0.500 [-0.500, -0.500]"


def test_from_runs_to_table(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = shared_dir()
    for name, value in {"GRID": (1e-3,), "STEPS": 2, "SEEDS": (42, 1), "COST_STEPS": 2, "COST_ROUNDS": 1}.items():
        monkeypatch.setattr(script, name, value)
    found = {"lora": {1e-3: script.run(script.configuration("lora", 1e-3, tmp_path / "lora", shared))}}
    again = script.run(script.configuration("lora", 1e-3, tmp_path / "seed", shared, seed=1))
    assert len(found["lora"][1e-3]["records"]) == 200
    costs = script.cost(["lora"], tmp_path, shared)
    (row,) = script.table({"lora": 1e-3}, {"lora": [found["lora"][1e-3], again]}, costs).splitlines()[2:]
    assert row.startswith("| lora | 0.001* |")
    assert "+0.000 [+0.000, +0.000] | 63,360 |" in row
    assert row.endswith(") ms |")
