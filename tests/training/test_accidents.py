"""What a run does about a lost loss, too little memory, a full disk, a damaged checkpoint and a scheduler's signal."""

import errno
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from linchain.errors import DivergedError, LinchainError, RunInterrupted, is_out_of_memory
from linchain.training.load_config import dump_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer
from tests.training.short_runs import Killed, interrupt_at, kill, outcome


def with_loss(monkeypatch, step, change):
    """Lets `change` make another loss of that of the optimizer step `step`."""
    original = RunTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return change(loss) if self.state.global_step + 1 == step else loss

    monkeypatch.setattr(RunTrainer, "compute_loss", compute_loss)


def nothing(loss):
    return loss * float("nan")


def much(loss):
    return loss * 1e4


@pytest.mark.parametrize(
    ("change", "logging_steps", "says"),
    [(nothing, 1, "no longer a number"), (nothing, 5, "no longer a number"), (much, 1, "explodes")],
)
def test_a_lost_loss_stops_with_step_examples_and_checkpoint(configure, monkeypatch, change, logging_steps, says):
    config = configure("lost", training={"save_steps": 2, "logging_steps": logging_steps})
    with_loss(monkeypatch, 5, change)
    with pytest.raises(
        DivergedError, match=rf"{says}.* at step 5.* examples .*train\.jsonl:\d+.*checkpoint-4\. Try a lower"
    ):
        train(config)
    assert RunFolder(config.output).checkpoints.last().name == "checkpoint-4"


def test_weights_that_are_no_numbers_get_into_no_checkpoint(configure, monkeypatch):
    config = configure("broken", training={"save_steps": 2})
    original = RunTrainer._save_checkpoint

    def save(self, *args):
        if self.state.global_step == 4:
            next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        original(self, *args)

    monkeypatch.setattr(RunTrainer, "_save_checkpoint", save)
    with pytest.raises(DivergedError, match=r"lora_A\S* holds values that are no numbers at step 4; .*checkpoint-2"):
        train(config)


def test_weights_that_are_no_numbers_in_another_process_are_told_too(monkeypatch):
    monkeypatch.setattr("linchain.processes.exchange", lambda name: [name, "lora_A"])
    trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), state=SimpleNamespace(global_step=4))
    with pytest.raises(DivergedError, match="lora_A holds values that are no numbers at step 4"):
        RunTrainer._refuse_broken_weights(trainer)


def test_a_damaged_checkpoint_costs_its_steps_and_no_more(configure, monkeypatch):
    undisturbed, killed = configure("undisturbed"), configure("killed")
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 10, kill)
        with pytest.raises(Killed):
            train(killed)
    folder = RunFolder(killed.output)
    weights = folder.checkpoints.at(8) / "optimizer.pt"
    os.truncate(weights, weights.stat().st_size - 1)
    assert train(killed, Start(resume=True))["resumed_from_step"] == 4
    assert outcome(killed) == outcome(undisturbed)


def test_the_first_row_after_a_resume_is_the_mean_over_the_same_steps(configure, monkeypatch):
    undisturbed, killed = (configure(name, training={"logging_steps": 5}) for name in ("undisturbed", "killed"))
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, kill)  # the last checkpoint is of step 4
        with pytest.raises(Killed):
            train(killed)
    train(killed, Start(resume=True))
    assert outcome(killed) == outcome(undisturbed)


def test_a_schedulers_signal_saves_and_is_named(configure, monkeypatch):
    config = configure("stopped")
    interrupt_at(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunInterrupted, match="step 3 of 10") as stopped:
        train(config)
    assert stopped.value.signal == signal.SIGTERM
    assert RunFolder(config.output).checkpoints.last().name == "checkpoint-3"


def test_a_full_disk_in_a_run_is_one_line_and_the_run_continues_from_its_checkpoint(configure, monkeypatch):
    undisturbed, full = configure("undisturbed"), configure("full")
    train(undisturbed)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        # the system itself refuses what is written from step 5 on
        interrupt_at(patch, 5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard)))
        try:
            with pytest.raises(LinchainError, match=r"cannot be written: .*checkpoint-4 is whole"):
                train(full)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert sorted(path.name for path in RunFolder(full.output).checkpoints.folder.iterdir()) == ["checkpoint-4"]
    train(full, Start(resume=True))
    assert outcome(full) == outcome(undisturbed)


@pytest.mark.parametrize(
    ("file", "writer"),
    [
        ("metrics.jsonl", "linchain.training.callbacks.MetricsFile.on_log"),
        ("predictions/before.jsonl", "linchain.training.run.write_jsonl"),
        ("adapter", "linchain.training.run.put_in_place"),
    ],
)
def test_a_disk_that_takes_no_more_is_named_with_the_file(configure, monkeypatch, file, writer):
    config = configure("full")

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(RunFolder(config.output).path / file))

    monkeypatch.setattr(writer, refuse)
    with pytest.raises(LinchainError, match=rf"No space left on device.*{file}.*--resume continues"):
        train(config)


def test_too_little_memory_says_what_to_lower_and_the_run_continues_with_it(configure, monkeypatch):
    undisturbed, out = configure("undisturbed"), configure("out")
    train(undisturbed)

    def refuse():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, refuse)
        with pytest.raises(LinchainError, match=r"out of memory in step 6: training\.batch_size 4") as told:
            train(out)
    lowered = {"batch_size": 2, "gradient_accumulation_steps": 4}
    assert " ".join(f"training.{key}={value}" for key, value in lowered.items()) in str(told.value)
    assert train(configure("out", training=lowered), Start(resume=True))["resumed_from_step"] == 4
    for one, other in zip(*(map(_losses, (undisturbed, out))), strict=True):
        assert one == pytest.approx(other, rel=0.2)  # dropout differs where batches do


def _losses(config):
    return [row["loss"] for row in outcome(config)[1]]


def test_a_resumed_run_may_not_take_other_steps(configure, monkeypatch):
    config = configure("run")
    interrupt_at(monkeypatch, 6, kill)
    with pytest.raises(Killed):
        train(config)
    with pytest.raises(LinchainError, match=r"training\.batch_size: 4 is now 2"):
        train(configure("run", training={"batch_size": 2}), Start(resume=True))


def test_real_want_of_memory_is_told(configure, tmp_path):
    """A process with room for a model and not for its batch: torch's own allocator refuses."""
    config = configure("real", training={"batch_size": 16, "gradient_accumulation_steps": 1})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    code = """
import resource, sys
from pathlib import Path
import psutil, torch
from linchain.training import run, trainer
from linchain.training.load_config import load_config
step = trainer.RunTrainer.training_step
def limited(self, *args, **kwargs):
    room = psutil.Process().memory_info().vms + 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    torch.empty(2**28)
    return step(self, *args, **kwargs)
trainer.RunTrainer.training_step = limited
try:
    run.train(load_config(Path(sys.argv[1])))
except Exception as error:
    print(type(error).__name__, error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml")], capture_output=True, text=True, check=False
    )
    assert ended.stdout.startswith("LinchainError out of memory in step 1: training.batch_size 16"), ended.stderr


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_what_is_want_of_memory(error, is_it):
    assert is_out_of_memory(error) is is_it
