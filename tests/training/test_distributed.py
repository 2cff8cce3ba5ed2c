"""Runs on two processes over gloo: as one process makes them, resumed on another number, and failing as one."""

from __future__ import annotations

import errno
import json
import os
import signal
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from linchain.errors import LinchainError, RunInterrupted
from linchain.training.distributed import check_engine
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer
from tests.training.two_processes import (
    METHODS,
    RECIPES,
    check_equal,
    check_trained,
    configure,
    environment,
    in_step,
    interrupted,
    outcome,
    start_two,
    write_data,
)

pytestmark = pytest.mark.timeout(900)  # the first test makes all runs of the two processes
ENGINES = ("ddp", "fsdp2")
ONE_STEP = {"max_steps": 1, "save_steps": 1}
FULL: dict[str, Any] = {
    "method": {"name": "full"},
    "data": {"validation_size": 2},
    "training": {"learning_rate": 1e-3, "keep_best": True, "eval_steps": 2},
}
BFLOAT16: dict[str, Any] = {"model": {"name": "starter", "dtype": "bfloat16"}, "training": {"precision": "bfloat16"}}


def whole(folder: str, name: str, processes: int, method: str) -> Any:
    """A run with evaluations; LinChain's are by generation."""
    generated = {"metric": "exact_match", "max_new_tokens": 4} if method == "linchain" else {}
    return configure(
        folder, name, processes, method=METHODS[method], data={"test": f"{folder}/test.jsonl"}, evaluation=generated
    )


def command(*arguments: str) -> tuple[int, str]:
    """Status and output of `linchain` in this process."""
    from linchain.cli.app import main

    out = StringIO()
    with patch("sys.argv", ["linchain", *arguments]), redirect_stdout(out), redirect_stderr(out):
        try:
            main()
        except SystemExit as exit:
            return int(exit.code or 0), out.getvalue()
    raise AssertionError("the command line always exits")


# the engine, what writes, the process whose disk is then full, and what is not written
FULL_DISKS = (
    ("ddp", "linchain.training.trainer.RunTrainer._save", 0, "checkpoint-1 cannot be written"),
    ("ddp", "linchain.training.trainer.RunTrainer._save_rng_state", 1, "checkpoint-1 cannot be written"),
    ("ddp", "linchain.training.callbacks.write_jsonl", 0, "run folder"),
    ("ddp", "linchain.training.run.put_in_place", 0, "run folder"),
    ("fsdp2", "linchain.training.trainer.RunTrainer._save", 0, "checkpoint-1 cannot be written"),
)


def refusal(config: Any, writer: str = "", refuses: bool = False) -> str:
    """What a run is told; with `refuses`, after the disk of this process took nothing from `writer`."""
    full = patch(writer, side_effect=OSError(errno.ENOSPC, "No space left on device")) if refuses else nullcontext()
    with full, pytest.raises(LinchainError) as told:
        train(config)
    assert told.value.in_all_processes
    return str(told.value)


def work(rank: int, folder: str) -> None:
    """One of the two processes: all runs, one after another, and what was found written into the folder."""
    found: dict[str, Any] = {}
    for engine in ENGINES:
        with patch.dict(os.environ, environment(engine)):
            for method in METHODS:
                train(whole(folder, f"{method}-{engine}", 2, method))
            train(configure(folder, f"from-one-to-{engine}", 2), Start(resume=True))
            with patch.object(RunTrainer, "_save", autospec=True, side_effect=RunTrainer._save) as saves:
                found[engine] = interrupted(configure(folder, f"from-{engine}-to-one", 2))
            found[f"saved under {engine}"] = saves.call_count
    found["full disks"] = []
    for engine, writer, refused, _ in FULL_DISKS:
        with patch.dict(os.environ, environment(engine)):
            config = configure(folder, f"{writer}-{engine}", 2, training=ONE_STEP)
            found["full disks"].append(refusal(config, writer, rank == refused))
    with patch.dict(os.environ, environment("fsdp2")):
        train(configure(folder, "bfloat16-fsdp2", 2, **BFLOAT16))
        interrupted(configure(folder, "full-from-fsdp2-to-one", 2, **FULL))
        train(configure(folder, "full-from-one-to-fsdp2", 2, **FULL), Start(resume=True))
    with patch.dict(os.environ, {**environment("fsdp2"), "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}):
        interrupted(configure(folder, "sharded", 2))
        train(configure(folder, "sharded", 2), Start(resume=True))
    found["other data"] = refusal(
        configure(folder, "other", 2, data={"train": f"{folder}/{('train', 'test')[rank]}.jsonl"})
    )
    stopped = configure(folder, "stopped", 2)

    def signal_one(trainer: RunTrainer) -> None:
        found["seed"] = torch.initial_seed()
        if rank == 1:
            signal.raise_signal(signal.SIGTERM)

    with in_step(2, signal_one):
        try:
            train(stopped)
        except RunInterrupted as interruption:
            found["stopped"] = str(interruption)
    found["mistake"] = command("train", f"{folder}/config.yaml", "method.rnak=3")
    found["taken"] = command("train", f"{folder}/config.yaml")
    Path(folder, f"found-{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the runs of one process and of two lie."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("no gloo")
    folder = str(tmp_path_factory.mktemp("distributed"))
    write_data(folder)
    Path(folder, "config.yaml").write_text(json.dumps(configure(folder, "linchain-ddp", 2).model_dump(mode="json")))
    for engine in ENGINES:
        interrupted(configure(folder, f"from-one-to-{engine}", 1))
    interrupted(configure(folder, "full-from-one-to-fsdp2", 1, **FULL))
    start_two(work, folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, dict[str, Any]]:
    """What one process makes of the same steps, by method."""
    made = {}
    for method in METHODS:
        train(whole(folder, method, 1, method))
        made[method] = outcome(folder, method) | predicted(folder, method)
    return made


def predicted(folder: str, name: str) -> dict[str, Any]:
    stages = {stage: Path(folder, name, "predictions", f"{stage}.jsonl") for stage in ("before", "after")}
    rows = {stage: [json.loads(line) for line in file.read_text().splitlines()] for stage, file in stages.items()}
    return {
        stage: {"ids": [row["id"] for row in found], "values": torch.tensor([_value(row) for row in found])}
        for stage, found in rows.items()
    }


def _value(row: dict[str, Any]) -> float:
    return row["loss"] if "loss" in row else float(sum(row["generated"].encode()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_what_one_does(folder, alone, method, engine):
    found = outcome(folder, f"{method}-{engine}")
    check_equal(found | predicted(folder, f"{method}-{engine}"), alone[method])
    assert any(
        value.abs().max() > 1e-3 for name, value in found["trained"].items() if "lora_B" in name or "bone" in name
    )


def test_one_adapter_and_one_line_a_step_are_written(folder, alone):
    for engine in ENGINES:
        names = [
            {path.name for path in Path(folder, run, "adapter").iterdir()} for run in (f"linchain-{engine}", "linchain")
        ]
        assert names[0] == names[1]
        lines = Path(folder, f"linchain-{engine}", "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_continues_on_another_number_of_processes(folder, alone, engine):
    with pytest.raises(LinchainError, match="a step: 4 examples, on 2 processes, is now 2, on 1"):
        train(configure(folder, f"from-{engine}-to-one", 2), Start(resume=True))
    train(configure(folder, f"from-{engine}-to-one", 1), Start(resume=True))
    for name in (f"from-{engine}-to-one", f"from-one-to-{engine}"):
        check_trained(outcome(folder, name), alone["linchain"])


def test_sharded_checkpoints_continue(folder, alone):
    check_trained(outcome(folder, "sharded"), alone["linchain"])
    assert (RunFolder(f"{folder}/sharded").path / "checkpoints/checkpoint-4/optimizer_0").is_dir()


def test_full_fine_tuning_continues_on_another_number_of_processes(folder):
    train(configure(folder, "full", 1, **FULL))
    train(configure(folder, "full-from-fsdp2-to-one", 1, **FULL), Start(resume=True))
    for name in ("full-from-fsdp2-to-one", "full-from-one-to-fsdp2"):
        check_equal(outcome(folder, name), outcome(folder, "full"))


def test_float32_adapters_over_a_bfloat16_base(folder):
    train(configure(folder, "bfloat16", 1, **BFLOAT16))
    found, expected = outcome(folder, "bfloat16-fsdp2"), outcome(folder, "bfloat16")
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-3, atol=1e-3)
    for name, value in expected["trained"].items():
        assert value.dtype == found["trained"][name].dtype == torch.float32
        assert (found["trained"][name] - value).norm() < 0.02 * value.norm()


def test_what_one_process_is_told_all_do(folder):
    first, second = (json.loads(Path(folder, f"found-{rank}.json").read_text()) for rank in range(2))
    assert first["stopped"] == second["stopped"] == "stopped at step 2 of 4"
    assert second["seed"] == first["seed"] + 1
    assert (first["ddp"], first["fsdp2"]) == (False, True)
    assert first["other data"] == second["other data"]
    assert first["other data"].startswith("data.train: process 1 has something else")
    assert first["full disks"] == second["full disks"]
    for told, (*_, what) in zip(first["full disks"], FULL_DISKS, strict=True):
        assert what in told
        assert "No space left on device" in told
    assert (first["saved under fsdp2"], second["saved under fsdp2"]) == (1, 0)
    for key, part in (("mistake", "rnak"), ("taken", "holds a finished run")):
        (status, told), (other_status, other_told) = first[key], second[key]
        assert (status, other_status) == (2, 2)
        assert part in told
        assert not other_told


@pytest.mark.parametrize("recipe", [path.stem for path in sorted(RECIPES.glob("*.yaml"))])
def test_recipes_start_the_engine_of_their_name(recipe, monkeypatch):
    expected = {
        "ddp": {},
        "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"},
        "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
        "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    }[recipe]
    made = environment(recipe)
    assert made.items() >= expected.items()
    assert bool(made) == bool(expected)
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    check_engine(build_config({"model": "starter", "data": {"train": "a.jsonl"}, "output": "out"}))


@pytest.mark.parametrize(
    ("variables", "overrides", "part"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            {},
            "fsdp_cpu_ram_efficient_loading: true",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"keep_best": True}, "training.keep_best: true"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(variables, overrides, part, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    values = {"model": "starter", "data": {"train": "a.jsonl", "validation_size": 2}, "output": "out"}
    with pytest.raises(LinchainError, match=part):
        check_engine(build_config({**values, "training": overrides}))
