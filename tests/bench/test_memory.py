"""The memory of a step: what a fresh process's resident set shows is what torch allocates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from linchain.bench.memory import peaks_in_fresh_processes
from linchain.bench.step import Trainee
from linchain.bench.workload import Workload
from tests.bench.common import trainees

WORKLOAD = Workload(hidden=256, sequence_length=512, dtype="float32")


def allocated_peak(trainee: Trainee) -> int:
    """The most that torch's allocator has given out at once during a step."""
    trainee.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        trainee.step()
    now = peak = 0
    for event in found.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a process's peak")
def test_the_resident_sets_peak_is_what_is_allocated() -> None:
    before = dict(os.environ)
    advanced: list[int] = []
    names = ["floor", "peft-bat"]
    peaks = peaks_in_fresh_processes(names, WORKLOAD, torch.get_num_threads(), advanced.append)
    expected = {trainee.name: allocated_peak(trainee) for trainee in trainees(WORKLOAD, *names)}
    assert peaks == pytest.approx(expected, rel=0.1)  # 1 % on a quiet machine
    assert peaks["peft-bat"] > 1.5 * peaks["floor"]  # type: ignore[operator]
    assert sum(advanced) == 2
    assert dict(os.environ) == before
