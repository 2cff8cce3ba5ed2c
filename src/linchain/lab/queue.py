"""Runs trials as independent processes, as many at a time as there are devices."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from linchain.errors import LinchainError
from linchain.files import write_json
from linchain.lab.trials import Trial

# What every run would import, seconds of it; the fork server passes over what is not installed.
PRELOADED = ["linchain.lab.worker", "linchain.training.adapt", "linchain.training.trainer", "matplotlib.figure"]
VISIBLE = "CUDA_VISIBLE_DEVICES"
Finished = Callable[[Trial, float], None]


@dataclass(frozen=True)
class Slot:
    """A place to run in: a GPU, or some CPU threads."""

    threads: int
    gpu: int | None = None


def slots(threads: int | None) -> list[Slot]:
    """One for each GPU; without any, as many as the cores hold of `threads`, by default one on all cores.

    An accelerator of another kind takes one run at a time: which of several a process sees is told to each kind otherwise.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count() or int(torch.accelerator.is_available())
    if gpus:
        return [Slot(threads or max(1, cores // gpus), gpu) for gpu in range(gpus)]
    threads = min(threads or cores, cores)
    return [Slot(threads)] * (cores // threads)


def run_all(trials: Sequence[Trial], places: Sequence[Slot], finished: Finished) -> None:
    """Runs each trial in a process of its own, at most one a slot, in their order.

    Args:
        trials: each leaves result.json or error.json in its folder, also where its process is killed by another than us.
        places: where they run.
        finished: called with each trial and the seconds that it took, as it ends.

    On KeyboardInterrupt the runs, which get the signal too, are let write their checkpoints, and it is raised again. Whatever
    else is raised here or by `finished` ends the runs: who looked on is gone.
    """
    context: Any = _context(places)
    waiting, free = deque(trials), list(places)
    running: dict[Any, tuple[Trial, Slot, float, Any]] = {}
    try:
        while waiting or running:
            while waiting and free:
                trial, slot = waiting.popleft(), free.pop(0)
                process = context.Process(target=_work, args=(dict(trial.values), trial.stage, slot.threads))
                with _only(slot.gpu):
                    process.start()
                running[process.sentinel] = (trial, slot, time.perf_counter(), process)
            for sentinel in wait(list(running)):
                trial, slot, began, process = running.pop(sentinel)
                process.join()
                free.append(slot)
                _explain_death(trial, process.exitcode)
                finished(trial, time.perf_counter() - began)
    except KeyboardInterrupt:
        raise
    except BaseException:  # rich exits where the output is a pipe that nobody reads any more
        for _, _, _, process in running.values():
            process.terminate()
        raise
    finally:
        for _, _, _, process in running.values():
            process.join()


def _work(*arguments: Any) -> None:
    from linchain.lab.worker import work

    work(*arguments)


@contextmanager
def _only(gpu: int | None) -> Iterator[None]:
    """A process that is started within sees this GPU alone. It has to from its first import on: some ask CUDA at once."""
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        # the device as the user's own list, where there is one, names it
        listed = [name.strip() for name in (before or "").split(",") if name.strip()]
        os.environ[VISIBLE] = listed[gpu] if listed else str(gpu)
    try:
        yield
    finally:
        if gpu is not None:
            os.environ.pop(VISIBLE)
            if before is not None:
                os.environ[VISIBLE] = before


def _context(places: Sequence[Slot]) -> Any:
    """Forked from a server that has the libraries loaded, which saves seconds a run; CUDA must not be forked."""
    if places[0].gpu is None and "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        return context
    return multiprocessing.get_context("spawn")


def _explain_death(trial: Trial, exitcode: int | None) -> None:
    """error.json of a run that could not write one itself. Raises LinchainError where that cannot be written either."""
    if trial.state != "missing" or exitcode is None:
        return
    how = f"killed by signal {-exitcode}" if exitcode < 0 else f"ended with status {exitcode}"
    hint = "; out of memory?" if exitcode == -9 else ""
    text = f"the process of this run was {how}{hint}; see {trial.files.log.name}"
    try:
        write_json(trial.files.error, {"error": text, "diverged": False})
    except OSError as error:
        raise LinchainError(f"{trial.files.error} cannot be written: {error.strerror}") from error
