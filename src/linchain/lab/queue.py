"""The executor on this machine: runs as independent processes, as many at a time as there are devices."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from linchain.lab.executor import End, needs
from linchain.lab.trials import Trial

# What every run would import, seconds of it; the fork server passes over what is not installed.
PRELOADED = ["linchain.lab.worker", "linchain.training.adapt", "linchain.training.trainer", "matplotlib.figure"]
VISIBLE = "CUDA_VISIBLE_DEVICES"


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


def local_executor(threads: int | None) -> LocalExecutor:
    """An executor on all `slots` of this machine."""
    return LocalExecutor(slots(threads))


class LocalExecutor:
    """Processes of this machine, one a slot (`linchain.lab.executor.Executor`)."""

    scratch: Path | None = None

    def __init__(self, places: Sequence[Slot]) -> None:
        self.slots = list(places)
        self._free = list(places)
        self._running: dict[Any, tuple[Trial, Slot, float, Any]] = {}  # by sentinel
        self._context: Any = _context(places)

    def describe(self) -> str:
        one = self.slots[0]
        return f"{len(self.slots)} at a time, each on {needs(one.threads, one.gpu is not None)}"

    def places(self) -> int:
        return len(self.slots)

    def room(self) -> bool:
        return bool(self._free)

    def submit(self, trial: Trial) -> None:
        slot = self._free.pop(0)
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        arguments = (dict(trial.values), trial.stage, slot.threads)
        process = self._context.Process(target=_work, args=(ignored, *arguments))
        with _only(slot.gpu):
            process.start()
        self._running[process.sentinel] = (trial, slot, time.perf_counter(), process)

    def ended(self) -> list[End]:
        ends = []
        for sentinel in wait(list(self._running)):
            trial, slot, began, process = self._running.pop(sentinel)
            process.join()
            self._free.append(slot)
            ends.append(End(trial, time.perf_counter() - began, _death(process.exitcode)))
        return ends

    def stop(self, signalled: bool) -> None:
        for _, _, _, process in self._running.values():
            if not signalled:  # a second signal would not let it finish its step
                process.terminate()
        for _, _, _, process in self._running.values():
            process.join()

    def machines(self) -> list[str]:
        return [platform.node()]

    def alone_on(self, machine: str) -> LocalExecutor:
        return LocalExecutor(self.slots[:1])


def _work(interrupts_ignored: bool, *arguments: Any) -> None:
    # as by the comparison itself: a shell's script lets what it starts in the background ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_IGN if interrupts_ignored else signal.default_int_handler)
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
        with _interrupts_ignored():  # Ctrl-C while the server loads the libraries would end it with a traceback
            forkserver.ensure_running()
        return context
    return multiprocessing.get_context("spawn")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started within ignores Ctrl-C from its first instruction on."""
    if threading.current_thread() is not threading.main_thread():  # only that one may say what signals do
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _death(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    return f"was killed by signal {-exitcode}" + ("; out of memory?" if exitcode == -9 else "")
