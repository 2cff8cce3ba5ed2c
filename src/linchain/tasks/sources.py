"""Finds the data of a task: in a folder (our JSONL layout or a checkout of LLM-Adapters), on the Hub, or generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from linchain import tasks
from linchain.errors import LinchainError
from linchain.paths import user_path
from linchain.tasks.records import STARTER, TASK, Record, open_source, read_records
from linchain.tasks.task import Row, Split, Task


def read_scored(sources: Sequence[str], split: str, limit: int | None, folder: str | None) -> list[Record]:
    """The records of `sources` as `read_records` gives them, but with `limit` for each task by itself."""
    groups: dict[str, list[str]] = {}
    for source in sources:
        groups.setdefault(source if source.startswith(TASK) else "", []).append(source)
    return [record for group in groups.values() for record in read_records(group, split, limit, folder)]


def read_task(name: str, split: str, limit: int | None, folder: str | None) -> Iterator[Record]:
    """The records of one split of a task, each with the task's name, in the columns of our data formats.

    Raises LinchainError for an unknown task, a split that the task does not have, and data that are not to be found.
    """
    source, columns = find_source(tasks.get(name), split, folder)
    for record in open_source(source, split, limit):
        if (own := converted(record, columns, name)) is not None:
            yield own


def converted(record: Record, columns: Callable[[Row], Row | None], task: str) -> Record | None:
    """A record in our columns, which `columns` makes of its fields; None where it is none.

    Raises LinchainError for a row that is not as the task expects it.
    """
    try:
        fields = columns(record.fields)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LinchainError(
            f"{record.where}: no row as task {task} expects it ({type(error).__name__}: {error}); its columns are: "
            f"{', '.join(record.fields)}"
        ) from error
    return None if fields is None else replace(record, fields=fields, task=task)


def find_source(task: Task, split: str, folder: str | None) -> tuple[str, Callable[[Row], Row | None]]:
    """Where the split lies, a file, a Hub name or `starter:<kind>`, and what makes a row from there one of ours.

    `folder` holds our JSONL layout or is a checkout of LLM-Adapters: what is there decides. Without it the Hub is asked.
    """
    if split not in task.splits:
        hint = "; hold training records back with data.validation_size" if split == "validation" else ""
        raise LinchainError(f"task {task.name} has no {split} split, only {', '.join(task.splits)}{hint}")
    here = task.splits[split]
    if here.source is not None and here.source.startswith(STARTER):
        return here.source, dict
    if folder is not None:
        return _in_folder(task, split, here, user_path(folder))
    if here.source is None:
        raise LinchainError(
            f"task {task.name}: the {split} split is not on the Hub; name the folder that holds {_paths(here)} with data.folder"
        )
    return here.source, task.from_hub


def _in_folder(task: Task, split: str, here: Split, folder: Path) -> tuple[str, Callable[[Row], Row | None]]:
    if not folder.is_dir():
        raise LinchainError(f"data.folder: {folder} is no folder")
    if here.jsonl is not None and (folder / here.jsonl).is_file():
        return str(folder / here.jsonl), task.from_folder
    if here.adapters is not None and (folder / here.adapters).is_file():
        return str(folder / here.adapters), lambda row: task.from_folder(_from_adapters(row))
    sought = f"expected {_paths(here)}" if _paths(here) else "it is in no folder layout"
    elsewhere = f"; without data.folder it is read from the Hub, as {here.source}" if here.source else ""
    raise LinchainError(
        f"data.folder: {folder} does not have the {split} split of task {task.name} ({sought}){elsewhere}"
    )


def _paths(here: Split) -> str:
    return " or ".join(path for path in (here.jsonl, here.adapters) if path is not None)


def _from_adapters(row: Row) -> Row:
    """LLM-Adapters' answers are texts, numbers, or lists of one of them; ours are texts, whole numbers without a point."""
    answer = row.get("answer")
    if isinstance(answer, list):
        (answer,) = answer
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    return row if answer is None else {**row, "answer": str(answer)}
