"""What only a GPU has: clocks, kernels, and the share of a step's time that it is busy."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from linchain.bench.step import Trainee

PROFILED_STEPS = 3
# a step during which the GPU waits longer is bound by the launching of kernels: its time says little about theirs
LEAST_BUSY = 0.9
_COPIES = ("Memcpy", "Memset")


def clock() -> int | None:
    """The clock of the GPU's multiprocessors in MHz; None where nothing tells (pynvml does)."""
    with contextlib.suppress(Exception):  # pynvml's own errors have no narrower ancestor, and a clock is no condition
        return torch.cuda.clock_rate()
    return None


def profiled(trainee: Trainee, seconds: float) -> dict[str, Any]:
    """From a profile of three steps: kernels in a step, and which part of its `seconds` they and copies take.

    The time is that of steps without a profiler, which slows down the launching and not the kernels.

    Raises:
        RuntimeError: Where the profiler sees nothing of the GPU.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED_STEPS):
            trainee.step()
        torch.cuda.synchronize()
    events: Any = found.profiler
    # annotations span the kernels of what they name, such as the optimizer's step
    seen = [
        event
        for event in events.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.is_user_annotation()
    ]
    if not seen:
        raise RuntimeError("the profiler sees nothing of the GPU")
    busy = sum(event.duration_ns() for event in seen) / PROFILED_STEPS / 1e9 / seconds
    kernels = sum(not event.name().startswith(_COPIES) for event in seen)
    return {"kernels": kernels / PROFILED_STEPS, "busy_share": busy, "launch_bound": busy < LEAST_BUSY}
