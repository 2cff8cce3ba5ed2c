"""The progress bar of whatever takes a known number of turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def evaluation_progress(
    console: Console, title: str, total: int, unit: str = "examples"
) -> Iterator[Callable[[int], None]]:
    """Gives the function to call with the number of examples (or other units) that were finished since the last call."""
    if not console.is_terminal:
        console.print(f"{title}: {total} {unit}", highlight=False)
        yield lambda done: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
