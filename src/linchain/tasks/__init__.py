"""Data, prompt, answer, metric: the registry of tasks, and from a record of a file to tokens and a gold answer.

`task` says what a task is, and one file a family declares its tasks; `sources` finds their data. `records` reads data
wherever they lie, one file a format says how a record becomes text, `encoding` turns that text into tokens with a loss
mask, `answers` compares generated text with a gold answer.

To add a task: write it into its family's file, or a family of its own here.
"""

from __future__ import annotations

from linchain.errors import unknown_name
from linchain.tasks import arithmetic, commonsense, glue, language_modelling, metamath, starter_problems
from linchain.tasks.task import Split, Task

__all__ = ["Split", "Task", "get", "names", "registry"]

FAMILIES = (commonsense, arithmetic, metamath, glue, starter_problems, language_modelling)

_TASKS = {task.name: task for family in FAMILIES for task in family.TASKS}


def registry() -> list[Task]:
    """All tasks, family by family."""
    return list(_TASKS.values())


def names() -> list[str]:
    """The tasks' names, in the registry's order."""
    return list(_TASKS)


def get(name: str) -> Task:
    """The task of this name.

    Raises:
        LinchainError: For an unknown name, with the nearest match.
    """
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    return _TASKS[name]
