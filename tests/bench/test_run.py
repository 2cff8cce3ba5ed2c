"""The whole measurement: what it refuses, and what its result holds."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest
import torch
from rich.console import Console

from linchain.bench import run
from linchain.bench.contestants import choose
from linchain.bench.machine import cores, pinned
from linchain.bench.report import report
from linchain.bench.run import Plan, check, measure
from linchain.bench.workload import Workload
from linchain.errors import LinchainError
from tests.bench.common import TINY

WRONG = [
    ({"dtype": "bf16"}, {}, "unknown dtype 'bf16'; did you mean 'bfloat16'?"),
    ({"device": "gpu"}, {}, "unknown device 'gpu'"),
    ({"batch_size": 0}, {}, "--batch-size must be at least 1, got 0"),
    ({"chain_length": -1}, {}, "--chain-length must be at least 0, got -1"),
    ({"lora_dropout": 1.0}, {}, "--lora-dropout must be at least 0 and less than 1, got 1.0"),
    ({"heads": 3}, {}, "--hidden must be a multiple of twice --heads, got 32 and 3"),
    ({"targets": ("q_porj",)}, {}, "the model has no module 'q_porj'; did you mean 'q_proj'?"),
    ({"bone_r": 7}, {}, "bone-col: "),
    ({"model": "llama-2-7b"}, {}, "--model has sizes of its own: leave out --hidden, --intermediate, --heads, --vocab"),
    ({}, {"rounds": 0}, "--rounds must be at least 1, got 0"),
    ({}, {"steps": 0}, "--steps-per-round must be at least 1, got 0"),
    ({}, {"threads": 1000}, r"--threads must be from 1 to \d+, the cores there are, got 1000"),
    ({}, {"only": ["peft-lroa"]}, "unknown contestant 'peft-lroa'; did you mean 'peft-lora'?"),
]


@pytest.mark.parametrize(("workload", "plan", "message"), WRONG, ids=[message[:24] for _, _, message in WRONG])
def test_mistakes_are_refused_before_anything_is_built(
    workload: dict[str, Any], plan: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build", lambda *args: pytest.fail("work began"))
    with pytest.raises(LinchainError, match=message):
        measure(Workload(**{**TINY, **workload}), Plan(**plan), Console())


NAMED = [
    ({"model": "lama-2-7b"}, "unknown model 'lama-2-7b'; did you mean 'llama-2-7b'"),
    ({"model": "roberta-base"}, "'roberta-base' is no causal language model"),
    ({"model": "llama-2-7b", "sequence_length": 5000}, "--sequence-length 5000 is more than 'llama-2-7b' takes: 4096"),
]


@pytest.mark.parametrize(("workload", "message"), NAMED)
def test_named_models_that_cannot_be_measured(workload: dict[str, Any], message: str) -> None:
    with pytest.raises(LinchainError, match=message):
        check(Workload(**workload), Plan())


def test_a_named_shape_takes_fewer_layers() -> None:
    config = Workload(model="llama-3-8b", layers=2).model_config()
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (2, 4096, 8)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Of all contestants; the fresh processes, which take seconds, are left to test_memory.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "peaks_in_fresh_processes", lambda names, *_: dict.fromkeys(names, 2**20))
        found = measure(Workload(**TINY), Plan(rounds=2, steps=3, threads=1), Console(file=io.StringIO()))
    return json.loads(json.dumps(found))


def test_the_result_and_its_table(result: dict[str, Any]) -> None:
    names = [contestant.name for contestant in choose(None, Workload())]
    assert list(result["contestants"]) == names
    assert result["workload"]["tokens"] == 8
    assert result["workload"]["layers"] == 1
    assert result["environment"]["threads"] == 1
    assert set(result["environment"]["versions"]) >= {"torch", "peft", "transformers", "linchain"}
    for name, figures in result["contestants"].items():
        assert [len(steps) for steps in figures["seconds"]] == [3, 3]
        assert list(figures["ratios"]) == names
        assert figures["ratios"][name] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
        assert figures["adapted_modules"] == (0 if name in ("floor", "floor-again", "full") else 5)
        assert figures["peak_bytes"] == 2**20
    lora = result["contestants"]["peft-lora"]
    assert lora["added_per_module"]["operations"] > 0
    assert lora["ratios"]["floor"]["q1"] <= lora["ratios"]["floor"]["median"] <= lora["ratios"]["floor"]["q3"]
    shown = io.StringIO()
    Console(file=shown, width=100).print(report(result))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    for name in names:
        (row,) = (line for line in lines if line.startswith(f"{name} ") and "MiB" not in line and " of " not in line)
        assert " 1.0 " in row  # the MiB


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not let a process choose")
def test_cores_are_free_again_after_the_measurement() -> None:
    before = cores()
    with pinned(1):
        assert cores() == before[:1]
        assert torch.get_num_threads() == 1
    assert cores() == before
