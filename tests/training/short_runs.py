"""Runs of a few steps: how they are broken off, and what must come out of them all the same."""

import json

from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer


class Killed(BaseException):
    """Stands for a kill: nothing in the run catches it."""


def numbers(count, start=0):
    return [
        {"instruction": f"What is {i} plus {i + 3}?", "output": f"It is {2 * i + 3}.", "answer": str(2 * i + 3)}
        for i in range(start, start + count)
    ]


def interrupt_at(monkeypatch, step, action):
    """Calls `action` once, in the training step that would make optimizer step `step`."""
    original = RunTrainer.training_step
    done = []

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step and not done:
            done.append(True)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)


def kill():
    raise Killed


def outcome(config):
    """What must be equal: the bytes of the adapter or model, the losses, the predictions."""
    folder = RunFolder(config.output)
    (weights,) = folder.path.glob("*/*model.safetensors")
    return (
        weights.read_bytes(),
        [
            {"step": row["step"], "loss": row["loss"]}
            for row in map(json.loads, folder.metrics.read_text().splitlines())
            if "loss" in row
        ],
        (folder.predictions / "after.jsonl").read_text(),
    )
