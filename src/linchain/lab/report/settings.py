"""What a comparison was made with: contestants, versions, hashes, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from linchain import tasks
from linchain.lab.environment import OVERLAPS
from linchain.lab.report import words
from linchain.lab.report.content import Cell, Column, Sheet, Verbatim
from linchain.lab.report.study import Study
from linchain.tasks.records import TASK

_LABELS = {"commit": "commit of the working directory"}


def contestants(study: Study) -> Sheet:
    """Each contestant's method, options and learning rates."""
    rows, records = [], []
    for one in study.comparison.plan.contestants:
        options = ", ".join(f"{name}: {words.value(value)}" for name, value in one.options.items())
        rates = ", ".join(words.rate(rate) for rate in one.learning_rates)
        rows.append((Cell(one.label), Cell(one.method), Cell(options or "defaults"), Cell(rates)))
        records.append(
            {"contestant": one.label, "method": one.method, "options": json.dumps(one.options), "learning_rates": rates}
        )
    columns = (Column("Contestant"), Column("Method"), Column("Options given"), Column("Learning rates searched"))
    caption = "What each contestant is. Options that are not given have the defaults that linchain methods NAME shows."
    return Sheet(f"{study.name}-contestants", caption, columns, tuple(rows), tuple(records))


def cautions(study: Study) -> tuple[str, ...]:
    """What of the test data other splits hold, found by text here and known of the tasks; what changed between runs."""
    found = [
        f"{one['same']:,} of {one['n']:,} test questions of {Path(one['test']).name} stand in the {split} data, and "
        f"{one['near']:,} more nearly so."
        for key, split in zip(OVERLAPS, ("training", "validation"), strict=True)
        for one in study.environment.get(key, ())
        if one["same"] or one["near"]
    ]
    trained = {source.removeprefix(TASK) for source in study.comparison.plan.run["data"]["train"] or ()}
    tested = dict.fromkeys(table.test for table in study.analysis.tables if table.test in tasks.names())
    known = [
        f"{tasks.get(name).title}: {text}"
        for name in tested
        for train, text in tasks.get(name).contamination.items()
        if train in trained
    ]
    differing = [
        f"Not the same for all runs: {_LABELS.get(key, key)} "
        f"({words.listed(words.shortened(words.value(one), 30) for one in values)})."
        for key, values in study.environment.get("differing", {}).items()
    ]
    return (*found, *known, *differing)


def environment(study: Study) -> Sheet | None:
    """Versions, machine, commit, and the hashes of model and data."""
    shown = {
        _LABELS.get(name, name): value
        for name, value in study.environment.items()
        if name not in (*OVERLAPS, "differing")
    }
    found = list(_flat(shown))
    if not found:
        return None
    rows = tuple((Cell(name), Cell(value)) for name, value in found)
    records = tuple({"name": name, "value": value} for name, value in found)
    caption = "Versions and machine, of the last run that began, and SHA-256 of the model’s files and of each split’s records."
    return Sheet(f"{study.name}-environment", caption, (Column("What"), Column("Value")), rows, records)


def reruns(study: Study) -> tuple[Verbatim, ...]:
    """The command, and the resolved plan that it takes."""
    values = yaml.safe_load(study.comparison.dump_plan())
    del values["output"]  # a place on the machine that it was run on
    plan = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    command = "linchain compare plan.yaml output=rerun"
    return (
        Verbatim(
            f"{study.name}-command",
            "The command, with the plan below saved as plan.yaml, and the model and data whose hashes stand above",
            command,
        ),
        Verbatim(f"{study.name}-plan", "The resolved plan", plan.rstrip(), folded=True),
    )


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name} · {key}" if name else str(key))
    elif values is not None:
        yield name, words.value(values)
