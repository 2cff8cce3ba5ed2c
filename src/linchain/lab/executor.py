"""Where the runs of a comparison go, and the one loop over them: what is lost is tried again, what fails is a row."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from linchain.errors import LinchainError, unknown_name
from linchain.files import write_json
from linchain.lab.trials import Trial
from linchain.training.checkpoints import checkpoint_step

# of a run whose process is lost: a machine may go down, but what loses each process before its next checkpoint is no accident
TRIES = 3
Finished = Callable[[Trial, float], None]


class MachineLostError(Exception):
    """The machine that runs were to be alone on is gone."""


@dataclass(frozen=True)
class End:
    """The end of a run's process.

    Attributes:
        trial: the run. What became of it its folder says, and nothing else does.
        seconds: that it took.
        death: how the process ended, for where it left neither result.json nor error.json.
    """

    trial: Trial
    seconds: float
    death: str


class Executor(Protocol):
    """A place that runs go to, each in a process of its own that leaves result.json or error.json in the run's folder."""

    @property
    def scratch(self) -> Path | None:
        """A folder that its processes see, for runs that are thrown away; None: any temporary one."""

    def describe(self) -> str:
        """How many runs go at a time, and what each of them has."""

    def places(self) -> int:
        """How many runs go at a time just now."""

    def room(self) -> bool:
        """Whether it takes another run."""

    def submit(self, trial: Trial) -> None:
        """Starts a run, or puts it into the queue."""

    def ended(self) -> list[End]:
        """Waits until a run has ended, and returns those that have. MachineLostError where it is bound to a machine
        that is gone."""

    def stop(self, signalled: bool) -> None:
        """Has the runs write their checkpoints and end; `signalled`: the Ctrl-C of this terminal has told them already."""

    def machines(self) -> list[str]:
        """Names of the machines that runs go to."""

    def alone_on(self, machine: str) -> Executor:
        """One run at a time on one of the `machines`, with nothing beside it. MachineLostError where it is gone by now."""


def needs(threads: int, gpu: bool) -> str:
    """What a run has, in words."""
    each = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    return f"a GPU and {each}" if gpu else each


@contextmanager
def open_executor(name: str, folder: Path, threads: int | None) -> Iterator[Executor]:
    """The executor "local" or "ray" for runs in `folder` on so many CPU `threads` each; None: all there are.

    Raises LinchainError for any other name, and for a Ray cluster that cannot run them (`ray_executor.connected`).
    """
    if name == "local":
        from linchain.lab.queue import local_executor

        yield local_executor(threads)
    elif name == "ray":
        from linchain.lab.ray_executor import connected

        with connected(folder, threads) as executor:
            yield executor
    else:
        raise LinchainError(f"--executor: {unknown_name('executor', name, ['local', 'ray'])}")


def run_all(trials: Sequence[Trial], executor: Executor, finished: Finished) -> None:
    """Runs each trial, in their order, until all of them have a result or an error.

    A run whose process was killed or whose machine went down continues from its last checkpoint. After TRIES such losses
    without a further checkpoint it gets an error.json that says so.

    Args:
        trials: what is left of an earlier error of theirs is removed.
        executor: where they run.
        finished: called with each trial and the seconds that it took, as it ends.

    On KeyboardInterrupt, and whatever else is raised here or by `finished` (rich exits where the output is a pipe that
    nobody reads any more), the runs are let write their checkpoints, and it is raised again.
    """
    waiting, tries, running = deque(trials), Counter[Path](), 0
    began: dict[Path, int] = {}  # the step that a try continued from
    try:
        while waiting or running:
            while waiting and executor.room():
                trial = waiting.popleft()
                trial.files.error.unlink(missing_ok=True)
                executor.submit(trial)
                tries[trial.folder] += 1
                began[trial.folder] = _step(trial)
                running += 1
            for end in executor.ended():
                running -= 1
                lost = end.trial.state == "missing"
                if lost and _step(end.trial) > began[end.trial.folder]:
                    tries[end.trial.folder] = 0
                if lost and tries[end.trial.folder] < TRIES:
                    waiting.appendleft(end.trial)
                    continue
                if lost:
                    _write_loss(end)
                finished(end.trial, end.seconds)
    except BaseException as error:
        executor.stop(signalled=isinstance(error, KeyboardInterrupt))
        raise


def _step(trial: Trial) -> int:
    """How far a run has got: the step of its newest checkpoint."""
    newest = trial.files.checkpoints.newest()
    return checkpoint_step(newest[0]) if newest else 0


def _write_loss(end: End) -> None:
    """error.json of a run that could not write one itself. Raises LinchainError where that cannot be written either."""
    files = end.trial.files
    text = f"the process of this run {end.death}; tried {TRIES} times without getting further; see {files.log.name}"
    try:
        write_json(files.error, {"error": text, "diverged": False})
    except OSError as error:
        raise LinchainError(f"{files.error} cannot be written: {error.strerror}") from error
