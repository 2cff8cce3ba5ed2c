"""The progress of whatever takes a known number of turns: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SILENCE = 30.0  # seconds without a line in a log file


class Pace:
    """Tells when the next line of a log file is due, and the time that is left of `total` turns, `done` of which are done."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.first = total, done
        self.began = self.told_at = time.monotonic()
        self.told = done

    def due(self, done: int, every: float = float("inf")) -> str | None:
        """The time left, in words, where nothing was told for `SILENCE` or for `every` turns; else None."""
        now = time.monotonic()
        if done <= self.told or (done < self.told + every and now < self.told_at + SILENCE):
            return None
        self.told, self.told_at = done, now
        left = (now - self.began) / (done - self.first) * (self.total - done)
        return f"{timedelta(seconds=round(left))} left"


@contextmanager
def evaluation_progress(
    console: Console, title: str, total: int, unit: str = "examples"
) -> Iterator[Callable[[int], None]]:
    """Gives the function to call with the number of examples (or other units) that were finished since the last call."""
    if not console.is_terminal:
        console.print(f"{title}: {total} {unit}", highlight=False)
        pace, done = Pace(total), 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if left := pace.due(done):
                console.print(f"{title}: {done} of {total} {unit}, {left}", highlight=False)

        yield advance
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
