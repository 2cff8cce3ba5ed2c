"""DeepSpeed ZeRO-2 and ZeRO-3 on two processes, where it is installed: what one process makes, and continued after a kill.

The engine is DeepSpeed's own, on gloo. Accelerate starts it on accelerators alone: here it is told that the CPU is one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from linchain.errors import LinchainError
from linchain.training.run import Start, train
from tests.training.two_processes import (
    configure,
    environment,
    interrupted,
    outcome,
    start_two,
    write_data,
)

pytestmark = pytest.mark.timeout(900)  # the first test makes all runs of the two processes
STAGES = ("zero2", "zero3")
# wide enough for ZeRO-3, which keeps parameters of less than ten times the hidden size whole
METHODS: dict[str, dict[str, Any]] = {
    "linchain": {"name": "linchain", "r": 16},
    "bone-col": {"name": "bone-col", "r": 16},
    "bone-row": {"name": "bone-row", "r": 16},
    "full": {"name": "full"},
}
RATES = {"full": 1e-3}


def run(folder: str, name: str, processes: int, method: str) -> Any:
    sections: dict[str, Any] = {"method": METHODS[method], "training": {"learning_rate": RATES.get(method, 1e-2)}}
    if method == "linchain":
        sections |= {
            "data": {"test": f"{folder}/test.jsonl"}, "evaluation": {"metric": "exact_match", "max_new_tokens": 4}
        }  # fmt: skip
    return configure(folder, name, processes, **sections)


def work(rank: int, folder: str) -> None:
    """One of the two processes: all runs, one after another."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("gloo")
    begin = PartialState.__init__
    with (
        patch.object(PartialState, "_prepare_backend", lambda *_: ("gloo", DistributedType.MULTI_CPU)),
        patch.object(PartialState, "__init__", lambda self, cpu=False, **options: begin(self, **options)),
    ):
        for stage in STAGES:
            with patch.dict(os.environ, environment(stage)):
                for method in METHODS:
                    train(run(folder, f"{method}-{stage}", 2, method))
                interrupted(run(folder, f"interrupted-{stage}", 2, "linchain"))
                train(run(folder, f"interrupted-{stage}", 2, "linchain"), Start(resume=True))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed (the extra `deepspeed`)")
    if not shutil.which("ninja") or not shutil.which("c++"):
        pytest.skip("no C++ compiler and ninja, which DeepSpeed builds its communication on a CPU with")
    folder = str(tmp_path_factory.mktemp("deepspeed"))
    write_data(folder)
    start_two(work, folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, dict[str, Any]]:
    """What one process makes of the same steps, by method."""
    for method in METHODS:
        train(run(folder, method, 1, method))
    return {method: outcome(folder, method) for method in METHODS}


def check_near(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To rounding, by whole tensors: Adam makes a large step of the rounding of a gradient that is nearly zero."""
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-4, atol=1e-5)
    assert found["trained"].keys() == expected["trained"].keys()
    for name, value in expected["trained"].items():
        assert (found["trained"][name] - value).norm() < 1e-3 * value.norm(), name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_what_one_does(folder, alone, method, stage):
    check_near(outcome(folder, f"{method}-{stage}"), alone[method])


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_continues(folder, alone, stage):
    check_near(outcome(folder, f"interrupted-{stage}"), alone["linchain"])


def test_its_checkpoints_do_not_continue_in_one_process(folder):
    unfinished = Path(shutil.copytree(f"{folder}/linchain-zero3", f"{folder}/unfinished"))
    (unfinished / "result.json").unlink()
    with pytest.raises(LinchainError, match="DeepSpeed's state of 2 processes\" is now 'the state of one process'"):
        train(run(folder, "unfinished", 1, "linchain"), Start(resume=True))
