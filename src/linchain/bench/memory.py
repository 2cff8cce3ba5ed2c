"""The memory that a step needs on top of what is there before it: weights, adapters, optimizer states.

On a GPU the allocator tells. On a CPU it is the process's resident set, which tells the truth only in a process of its
own: memory that another contestant left in the C library's heap would be used again unseen. There the C library is told
to map every block of more than 64 KiB afresh and to give it back at once; what is then resident agrees with the sum of
torch's own allocations to a few percent (tests/bench/test_memory.py).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import torch

from linchain.bench.contestants import choose
from linchain.bench.step import Trainee
from linchain.bench.workload import Workload, build_base, draw_batch
from linchain.training.cost import peak, reset_peak

STEPS = 2
_EXACT_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peaks_in_fresh_processes(
    names: Sequence[str], workload: Workload, threads: int, advance: Callable[[int], None]
) -> dict[str, int | None]:
    """Bytes that a step of each contestant needs at its peak; None where the system does not tell, or kills the process.

    Args:
        names: the contestants'.
        workload: on a CPU.
        threads: that each process computes with.
        advance: called with 1 after each contestant.
    """
    peaks: dict[str, int | None] = {}
    with _environment(_EXACT_HEAP):
        processes = _processes()
        for name in names:
            with ProcessPoolExecutor(1, mp_context=processes) as process:
                try:
                    peaks[name] = process.submit(peak_here, name, workload, threads).result()
                except BrokenProcessPool:
                    peaks[name] = None
            advance(1)
    return peaks


def _processes() -> Any:
    """The way to start processes: from one that has imported everything and computed nothing, where the system has it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["linchain.bench.preload"])
    with _nowhere_to_write():
        forkserver.ensure_running()
    return processes


@contextmanager
def _nowhere_to_write() -> Iterator[None]:
    """A process started here writes no remarks of its libraries between the lines of this one's bar."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def peak_here(name: str, workload: Workload, threads: int) -> int | None:
    """Bytes that a step needs at its peak, the highest of two, in this process."""
    torch.set_num_threads(threads)
    base = build_base(workload)
    (contestant,) = (contestant for contestant in choose([name], workload) if contestant.name == name)
    trainee = Trainee(contestant, base, workload, draw_batch(workload, base.config))
    trainee.step()
    reached = [step_peak(trainee).get("peak_bytes") for _ in range(STEPS)]
    return max((size for size in reached if size is not None), default=None)


def step_peak(trainee: Trainee) -> dict[str, int]:
    """Bytes above those before a step: the highest, and on a GPU also those held between forward and backward.

    The latter show savings that the peak hides where it is the loss's. Empty where the system does not tell.
    """
    cuda = trainee.device == "cuda"
    reset_peak(cuda)
    before = peak(cuda)
    loss = trainee.forward()
    held = torch.cuda.memory_allocated() if cuda else None
    trainee.backward(loss)
    reached = peak(cuda)
    if before is None or reached is None:
        return {}
    return {"peak_bytes": reached - before} | ({} if held is None else {"after_forward_bytes": held - before})
