"""The tables of what training went through: the search, the loss, the ranks of the update."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from linchain.lab.report import words
from linchain.lab.report.content import EMPTY, Cell, Column, Sheet
from linchain.lab.report.series import RANKS, Course, losses, ranks
from linchain.lab.report.study import Study, suffix, within


def learning_rates(study: Study, budget: int | None) -> Sheet | None:
    """The validation score at each searched rate."""
    table = study.main_table(budget)
    lines = {line.contestant: line for line in table.lines if len(line.curve) > 1} if table else {}
    if not lines:
        return None
    rates = sorted({point.learning_rate for line in lines.values() for point in line.curve})
    metric = study.searched_by(budget)
    rows, records = [], []
    for label in study.contestants:
        if label not in lines:
            continue
        line = lines[label]
        points = {point.learning_rate: point for point in line.curve}
        cells = []
        for one in rates:
            point = points.get(one)
            chosen = "chosen" if one == line.learning_rate else ""
            cells.append(
                EMPTY
                if point is None
                else Cell("failed", tone="bad")
                if point.value is None
                else Cell(words.score(point.value, metric), chosen)
            )
        edge = {"low": "lower edge", "high": "upper edge", None: "no"}[line.edge]
        rows.append((Cell(label), *cells, Cell(edge, tone="bad" if line.edge else "quiet")))
        records += [{"contestant": label, "budget": budget} | asdict(point) for point in line.curve]
    columns = (Column("Contestant"), *(Column(words.rate(one), True) for one in rates), Column("Chosen at an edge"))
    caption = (
        f"{words.metric_name(metric).capitalize()} on the validation split at each learning rate{within(budget)}, one "
        "run each. The test split was not looked at for the choice."
    )
    return Sheet(f"{study.name}-learning-rates{suffix(budget)}-table", caption, columns, tuple(rows), tuple(records))


def convergence(study: Study, budget: int | None) -> Sheet | None:
    """How far the training loss fell, and how soon it reached where the reference ended."""
    courses = {label: found for label in study.contestants if (found := losses(study.runs(label, budget), "loss"))}
    reference = courses.get(study.reference)
    goal = _end(reference)[0] if reference else None
    rows, records = [], []
    for label, course in courses.items():
        mean, low, high = _end(course)
        reached = _reached(course, goal)
        rows.append(
            (
                Cell(label),
                Cell(f"{mean:.3g}", f"{low:.3g} to {high:.3g}" if course.seeds > 1 else ""),
                Cell(f"{reached:,}") if reached is not None else Cell("not reached", tone="quiet"),
            )
        )
        records.append(
            {"contestant": label, "budget": budget, "final_loss": mean, "low": low, "high": high, "reached_at": reached}
        )
    if not rows:
        return None
    columns = (
        Column("Contestant"),
        Column("Final training loss", True),
        Column(f"Step that reaches {study.reference}’s final loss", True),
    )
    caption = (
        f"Convergence{within(budget)}: the mean of the last tenth of the logged training losses over the seeds, beneath it the "
        "lowest and the highest seed; and the first logged step at which the mean over seeds is as low as the reference’s end."
    )
    return Sheet(f"{study.name}-convergence{suffix(budget)}", caption, columns, tuple(rows), tuple(records))


def _reached(course: Course, goal: float | None) -> int | None:
    """The first step at which the mean over seeds is at most `goal`."""
    steps = course.steps[course.mean <= goal] if goal is not None else np.array([])
    return int(steps[0]) if len(steps) else None


def _end(course: Course) -> tuple[float, float, float]:
    """Mean, lowest and highest seed of the last tenth of the logged losses."""
    last = slice(-max(1, len(course.steps) // 10), None)
    return float(course.mean[last].mean()), float(course.low[last].mean()), float(course.high[last].mean())


def rank_ends(study: Study, budget: int | None) -> Sheet | None:
    """Effective ranks when first measured and at the end."""
    rows, records = [], []
    for label in study.contestants:
        runs = study.runs(label, budget)
        courses = {measure: found for measure in RANKS if (found := ranks(runs, measure))}
        if not courses:
            continue
        measured = [row for trial in runs for row in trial.diagnostics]
        sizes = sorted({row["rank"] for row in measured if row.get("rank") is not None})
        errors = [row["folding_error"] for row in measured if row.get("folding_error") is not None]
        rows.append(
            (
                Cell(label),
                Cell(words.listed(sizes)) if sizes else EMPTY,
                *(_from_to(courses.get(measure)) for measure in RANKS),
                Cell(f"{max(errors):.1e}") if errors else EMPTY,
            )
        )
        record: dict[str, Any] = {"contestant": label, "budget": budget, "rank": " ".join(map(str, sizes))}
        for measure, course in courses.items():
            record |= {f"{measure}_first": course.mean[0], f"{measure}_last": course.mean[-1]}
        records.append(record | {"folding_error": max(errors) if errors else None})
    if not rows:
        return None
    columns = (
        Column("Contestant"),
        Column("Rank r", True),
        *(Column(measure.replace("_", " ").capitalize(), True) for measure in RANKS),
        Column("Folding error", True),
    )
    caption = (
        f"Effective rank of ΔW at the end of training{within(budget)}, mean over modules and seeds; beneath it the first that "
        "was measured of an update that is not zero. Folding error: the largest relative error of folding a chain in the "
        "adapter’s dtype."
    )
    return Sheet(f"{study.name}-rank-ends{suffix(budget)}", caption, columns, tuple(rows), tuple(records))


def _from_to(course: Course | None) -> Cell:
    if course is None or not np.isfinite(course.mean).all():
        return EMPTY
    return Cell(f"{course.mean[-1]:.2f}", f"{course.mean[0]:.2f} at step {course.steps[0]}")
