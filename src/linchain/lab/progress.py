"""The progress of a whole plan, with the time that is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from linchain.lab.trials import Stage, Trial


class PlanProgress:
    """A bar over all runs in a terminal, else a line for each run. Failed runs are named as they fail.

    The time left is that of the remaining runs by the mean of those of their stage, or of all while there is none yet.
    """

    def __init__(self, console: Console, expected: dict[str, int], places: Callable[[], int]) -> None:
        self.console = console
        self.expected = expected
        self.places = places  # asked anew each time: a cluster grows and shrinks
        self.done: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.bar: Progress | None = None

    def __enter__(self) -> PlanProgress:
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task("comparing", total=sum(self.expected.values()), left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def begin(self, stage: Stage, done: int) -> None:
        """So many runs of a stage need not be run: an earlier start of the comparison has."""
        self.done[stage] = done
        self._show("")

    def finished(self, trial: Trial, seconds: float) -> None:
        """Shows that a run has ended, well or not, after so many seconds."""
        self.done[trial.stage] += 1
        self.seconds[trial.stage].append(seconds)
        failed = trial.error
        if failed:
            self.console.print(f"{trial.describe()} failed: {failed}", style="red", markup=False, highlight=False)
        self._show(trial.describe())
        if not self.bar and not failed:
            total, done = sum(self.expected.values()), sum(self.done.values())
            self.console.print(
                f"[{done}/{total}] {trial.describe()}{_score(trial)} ({seconds:.0f} s; {self.left()})",
                markup=False,
                highlight=False,
            )

    def left(self) -> str:
        """The time left in words."""
        known = [one for times in self.seconds.values() for one in times]
        if not known:
            return "time left unknown"
        rest = 0.0
        for stage, expected in self.expected.items():
            times = self.seconds[stage] or known
            at_once = 1 if stage == "cost" else self.places()
            rest += (expected - self.done[stage]) * sum(times) / len(times) / at_once
        return f"{timedelta(seconds=round(rest))} left"

    def _show(self, description: str) -> None:
        if self.bar:
            self.bar.update(
                self.task, completed=sum(self.done.values()), description=description or "comparing", left=self.left()
            )


def _score(trial: Trial) -> str:
    """The score that a run was made for."""
    if trial.stage == "cost":
        return ""
    scores = trial.scores("validation" if trial.stage == "search" else "test")
    shown = scores[0] if scores else None
    return f": {shown['name']} {shown['value']:.4g}" if shown else ""
