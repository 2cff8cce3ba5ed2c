"""What to lower, and by how much, where the memory did not suffice."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from linchain import processes
from linchain.diagnostics.memory import estimate_training_memory
from linchain.errors import LinchainError
from linchain.tasks.encoding import Example
from linchain.training.config import RunConfig

SPARE = 0.9  # of the memory there is: the estimate leaves out the allocator's rounding and the kernels' workspaces


def while_training(config: RunConfig, model: Any, examples: list[Example], step: int) -> LinchainError:
    """The error of a training step that did not fit. It names the same step in fewer examples at a time, if there is one."""
    training = config.training
    if processes.count() > 1:  # what the engine divides is not in the estimate
        return LinchainError(
            f"out of memory in step {step} on process {processes.rank()}: training.batch_size {training.batch_size} in each of "
            f"{processes.count()} processes; halve it and double training.gradient_accumulation_steps, or set "
            "training.gradient_checkpointing=true"
        )
    longest = max(len(example.input_ids) for example in examples)
    there = _memory_there()

    def needed(batch_size: int, checkpointing: bool) -> int:
        return estimate_training_memory(
            model, batch_size=batch_size, sequence_length=longest, gradient_checkpointing=checkpointing
        ).total

    asked = needed(training.batch_size, training.gradient_checkpointing)
    message = (
        f"out of memory in step {step}: training.batch_size {training.batch_size} of up to {longest} tokens needs about "
        f"{_gib(asked)}, and there are {_gib(there)}"
    )
    smaller = [size for size in range(training.batch_size // 2, 0, -1) if training.batch_size % size == 0]
    ways = [(size, training.gradient_checkpointing) for size in smaller]
    if not training.gradient_checkpointing:
        ways += [(size, True) for size in (training.batch_size, *smaller)]
    for batch_size, checkpointing in ways:
        if (need := needed(batch_size, checkpointing)) < SPARE * there:
            return LinchainError(f"{message}. {_lowered(config, batch_size, checkpointing)} needs about {_gib(need)}")
    least = needed(1, True)
    return LinchainError(
        f"{message}. One example at a time with training.gradient_checkpointing=true needs about {_gib(least)}: take a "
        "smaller data.max_length, a smaller model, or a device with more memory"
    )


def while_evaluating(batch_size: int) -> LinchainError:
    """The error of an evaluation that did not fit."""
    if batch_size == 1:
        return LinchainError("out of memory in evaluating one example at a time: take a smaller data.max_length")
    return LinchainError(
        f"out of memory in evaluating: evaluation.batch_size {batch_size}; try evaluation.batch_size={batch_size // 2}"
    )


def _lowered(config: RunConfig, batch_size: int, checkpointing: bool) -> str:
    """The overrides that make the same steps in batches of `batch_size`."""
    training = config.training
    keys = {}
    if batch_size != training.batch_size:
        keys["batch_size"] = str(batch_size)
        accumulated = training.gradient_accumulation_steps * training.batch_size
        keys["gradient_accumulation_steps"] = str(accumulated // batch_size)
    if checkpointing and not training.gradient_checkpointing:
        keys["gradient_checkpointing"] = "true"
    return " ".join(f"training.{key}={value}" for key, value in keys.items())


def _memory_there() -> int:
    """Bytes that this process can have: what it has and what is free, of the GPU or of the machine and its own limit."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    process = psutil.Process().memory_info()
    there = psutil.virtual_memory().available + process.rss
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return there
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return there
    return min(there, limit - (process.vms - process.rss))  # libraries take addresses that they never fill


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
