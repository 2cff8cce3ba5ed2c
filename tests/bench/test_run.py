"""The whole measurement: what it refuses, and what its result holds."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import Qwen2Config

from linchain.bench import run
from linchain.bench.contestants import FLOOR, FLOOR_AGAIN, choose
from linchain.bench.machine import cores, pinned
from linchain.bench.report import report
from linchain.bench.run import Plan, check, measure
from linchain.bench.step import Trainee
from linchain.bench.workload import Workload, build_base, draw_batch
from linchain.errors import LinchainError
from tests.bench.common import TINY

WORKLOAD = Workload(**TINY)
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


def test_no_more_layers_than_the_model_has_kinds_of(tmp_path: Path) -> None:
    Qwen2Config(architectures=["Qwen2ForCausalLM"], num_hidden_layers=3).save_pretrained(tmp_path)
    assert Workload(model=str(tmp_path), layers=2).model_config().layer_types == ["full_attention"] * 2
    with pytest.raises(LinchainError, match=r"--layers 4 is more than .* has: 3"):
        Workload(model=str(tmp_path), layers=4).model_config()


class Limited(Trainee):
    """Runs out of memory from its forward of that number on."""

    last: int = 10**6

    def forward(self) -> Tensor:
        self.last -= 1
        if self.last < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward()


def limited(**forwards: int) -> list[Trainee]:
    """The floors, linchain and peft-lora, each with so many forwards."""
    base = build_base(WORKLOAD)
    batch = draw_batch(WORKLOAD, base.config)
    made: list[Trainee] = []
    for contestant in choose(["linchain", "peft-lora"], WORKLOAD):
        trainee = Limited(contestant, base, WORKLOAD, batch)
        trainee.last = forwards.get(trainee.name.replace("-", "_"), trainee.last)
        made.append(trainee)
    return made


def in_rounds(trainees: list[Trainee]) -> dict[str, Any]:
    return run.in_one_process(trainees, WORKLOAD, Plan(rounds=2), Console(file=io.StringIO()))


WARM_UP = run.PACES["cpu"].warm_ups + 1


@pytest.mark.parametrize("forwards", [0, 1, WARM_UP - 1, WARM_UP, WARM_UP + 1])
def test_who_runs_out_of_memory_is_left_out(forwards: int) -> None:
    """In the first step, the second, while operations are counted, in the first round and the second."""
    trainees = limited(linchain=forwards)
    result = in_rounds(trainees)
    assert list(result["contestants"]) == [FLOOR, FLOOR_AGAIN, "peft-lora"]
    assert list(result["contestants"]["peft-lora"]["ratios"]) == [FLOOR, FLOOR_AGAIN, "peft-lora"]
    assert result["left_out"] == {"linchain": "out of memory"}
    assert "model" not in vars(trainees[2])


@pytest.mark.parametrize("forwards", [0, WARM_UP])
@pytest.mark.parametrize("floor", ["floor", "floor_again"])
def test_without_a_floor_there_is_nothing(floor: str, forwards: int) -> None:
    with pytest.raises(LinchainError, match=r"^floor.*: out of memory\. Use a smaller --batch-size"):
        in_rounds(limited(**{floor: forwards}))


def test_nobody_has_memory() -> None:
    with pytest.raises(LinchainError, match=r"^floor: out of memory"):
        in_rounds(limited(floor=0, floor_again=0, linchain=0, peft_lora=0))


def test_rounds_are_what_the_seconds_leave() -> None:
    """A step of all four takes less than a second and more than a microsecond."""
    for seconds, beside, rounds in ((1000, 0, 3), (1e-5, 0, 1), (1000, 10**10, 1)):
        pace = run.Pace(warm_ups=1, steps=2, least_rounds=1, most_rounds=3, seconds=seconds, beside=beside)
        found = run.in_one_process(limited(), WORKLOAD, Plan(), Console(file=io.StringIO()), pace)
        assert (found["rounds"], found["steps_per_round"]) == (rounds, 2)


def test_the_base_itself_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(workload: Workload) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run, "build_base", full)
    with pytest.raises(LinchainError, match=r"^the base model: out of memory"):
        run.build(choose(None, WORKLOAD), WORKLOAD)


def test_a_figure_that_cannot_be_had_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(trainee: Trainee, seconds: float) -> dict[str, Any]:
        raise RuntimeError("no profiler here\nand more")

    def full(trainee: Trainee) -> dict[str, int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    left_out: dict[str, str] = {}
    (trainee, *_) = limited()
    monkeypatch.setattr(run, "step_peak", full)
    monkeypatch.setattr(run.gpu, "profiled", lambda *_: {"kernels": 3})
    assert run._gpu_figures(trainee, 0.1, left_out) == {"kernels": 3}
    monkeypatch.setattr(run, "step_peak", lambda trainee: {"peak_bytes": 5})
    monkeypatch.setattr(run.gpu, "profiled", blind)
    assert run._gpu_figures(trainee, 0.1, left_out) == {"peak_bytes": 5}
    assert left_out == {"floor, memory": "out of memory", "floor, kernels": "no profiler here"}


def test_what_tries_out_kernels_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = in_rounds(limited())["contestants"]["linchain"]["counts"]
    trainees = limited()
    forward = trainees[2].forward
    probed: list[Tensor] = []

    def with_a_probe() -> Tensor:
        if not probed:
            probed.append(torch.ones(3).exp())
        return forward()

    monkeypatch.setattr(trainees[2], "forward", with_a_probe)
    assert in_rounds(trainees)["contestants"]["linchain"]["counts"] == plain
    assert probed


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
        row, title = (line for line in lines if line.startswith(f"{name} "))
        assert " 1.0 " in row  # the MiB
        assert title.split()[1] == result["contestants"][name]["title"].split()[0]
    assert any("only 2 rounds" in line for line in lines)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not let a process choose")
def test_cores_are_free_again_after_the_measurement() -> None:
    before = cores()
    with pinned(1):
        assert cores() == before[:1]
        assert torch.get_num_threads() == 1
    assert cores() == before
