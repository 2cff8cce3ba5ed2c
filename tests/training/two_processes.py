"""Short runs for tests of several processes, and two processes that a launcher might have started."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.multiprocessing as mp
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file

from linchain.training.distributed import is_sharded
from linchain.training.load_config import build_config
from linchain.training.run import train
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer
from tests.training.short_runs import Killed, numbers

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"
METHODS: dict[str, dict[str, Any]] = {
    "linchain": {"name": "linchain", "r": 4},
    "bone-col": {"name": "bone-col", "r": 16},
}


def start_two(work: Callable[[int, str], None], folder: str) -> None:
    """Calls `work(rank, folder)` in two processes, with the environment of a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.get_context("forkserver").set_forkserver_preload([work.__module__])  # one import for both
    mp.start_processes(_one, (work, folder, port), nprocs=2, start_method="forkserver")


def _one(rank: int, work: Callable[[int, str], None], folder: str, port: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these are tests of a CPU
    torch.set_num_threads(1)
    work(rank, folder)


def write_data(folder: str) -> None:
    """What the runs read: 22 examples for training, 7 for the test."""
    for name, records in (("train", numbers(22)), ("test", numbers(7, 30))):
        Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def environment(recipe: str) -> dict[str, str]:
    """What `accelerate launch --config_file recipes/accelerate/<recipe>.yaml` gives its processes."""
    arguments = launch_command_parser().parse_args(["--config_file", str(RECIPES / f"{recipe}.yaml"), "script.py"])
    with patch("torch.cuda.device_count", return_value=8):
        arguments, *_ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ""  # the launcher puts this in between
    made = prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    return {name: made[name] for name in made if name.startswith(("FSDP_", "ACCELERATE_USE_", "ACCELERATE_DEEPSPEED_"))}


def configure(folder: str, name: str, processes: int, **sections: Any) -> Any:
    """A run of 4 steps of 4 examples in the folder `name`."""
    values: dict[str, Any] = {
        "model": {"name": "starter"},
        "method": METHODS["linchain"],
        "data": {"train": f"{folder}/train.jsonl"},
        "training": {
            "max_steps": 4,
            "batch_size": 2,
            "gradient_accumulation_steps": 2 // processes,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 2,
        },
        "evaluation": {"metric": "loss", "batch_size": 2},
        "output": f"{folder}/{name}",
    }
    for section, changes in sections.items():
        values[section] = changes if section == "method" else {**values[section], **changes}
    return build_config(values)


@contextmanager
def in_step(step: int, action: Callable[[RunTrainer], object]) -> Iterator[None]:
    """Calls `action` with the trainer in the training step that would make optimizer step `step`."""
    original = RunTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            action(self)
        return original(self, *args, **kwargs)

    with patch.object(RunTrainer, "training_step", training_step):
        yield


def interrupted(config: Any) -> bool:
    """A run that is killed after the checkpoint of its second step; whether its weights were divided."""
    divided = []

    def die(trainer: RunTrainer) -> None:
        divided.append(is_sharded(trainer.model))
        raise Killed

    with in_step(3, die), suppress(Killed):
        train(config)
    return divided[0]


def outcome(folder: str, name: str) -> dict[str, Any]:
    run = RunFolder(f"{folder}/{name}")
    rows = [row for row in map(json.loads, run.metrics.read_text().splitlines()) if "loss" in row]
    return {
        "trained": load_file(
            run.adapter / "adapter_model.safetensors" if run.adapter.is_dir() else run.model / "model.safetensors"
        ),
        "steps": [row["step"] for row in rows],
        "losses": torch.tensor([row["loss"] for row in rows]),
    }


def check_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To rounding: sums over processes are added up in another order."""
    assert found.keys() == expected.keys()
    for part, value in found.items():
        if isinstance(value, dict):
            check_equal(value, expected[part])
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, expected[part], rtol=1e-4, atol=2e-5)
        else:
            assert value == expected[part]


def check_trained(found: dict[str, Any], expected: dict[str, Any]) -> None:
    check_equal(found, {part: expected[part] for part in found})
