"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def evaluation_progress(console: Console, title: str, examples: int) -> Iterator[Callable[[int], None]]:
    """Gives the function that `predict` calls with the number of examples it has finished."""
    if not console.is_terminal:
        console.print(f"{title}: {examples} examples", highlight=False)
        yield lambda done: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=examples)
        yield lambda done: bar.advance(task, done)
