"""The tables of what training went through: the search, the loss, the ranks of the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from linchain.lab.choice import NOT_RUN, CurvePoint
from linchain.lab.report import words
from linchain.lab.report.content import EMPTY, Cell, Column, Sheet
from linchain.lab.report.series import RANKS, Course, losses, ranks
from linchain.lab.report.study import Study, suffix, within


def learning_rates(study: Study, budget: int | None) -> Sheet | None:
    """The validation score at each searched rate."""
    searches = study.searches(budget)
    if not searches:
        return None
    rates = sorted({point.learning_rate for search in searches.values() for point in search.curve})
    metric = study.searched_by(budget)
    rows, records = [], []
    for label, search in searches.items():
        points = {point.learning_rate: point for point in search.curve}
        edge = Cell(words.edge(search.edge), tone="bad") if search.edge else Cell("no", tone="quiet")
        rows.append(
            (
                Cell(label),
                *(_searched(points.get(one), search.learning_rate, metric) for one in rates),
                edge if search.learning_rate else EMPTY,
            )
        )
        records += [{"contestant": label, "budget": budget} | asdict(point) for point in search.curve]
    columns = (Column("Contestant"), *(Column(words.rate(one), True) for one in rates), Column("Chosen at an edge"))
    caption = (
        f"{words.metric_name(metric).capitalize()} on the validation split at each learning "
        f"rate{within(budget)}, one run each. The test split was not looked at for the choice."
    )
    return Sheet(f"{study.name}-learning-rates{suffix(budget)}-table", caption, columns, tuple(rows), tuple(records))


def _searched(point: CurvePoint | None, chosen: float | None, metric: str) -> Cell:
    if point is None:
        return EMPTY
    if point.value is None:
        return Cell("not run", tone="quiet") if point.error == NOT_RUN else Cell("failed", tone="bad")
    return Cell(words.score(point.value, metric), "chosen" if point.learning_rate == chosen else "")


def convergence(study: Study, budget: int | None) -> Sheet | None:
    """How far the training loss fell, and how soon it reached where the reference ended."""
    courses = {
        label: found.smoothed(max(1, len(found.steps) // 10))
        for label in study.contestants
        if (found := losses(study.runs(label, budget), "loss"))
    }
    goal = float(courses[study.reference].mean[-1]) if study.reference in courses else -math.inf
    rows, records = [], []
    for label, course in courses.items():
        mean, low, high = (float(ends[-1]) for ends in (course.mean, course.low, course.high))
        reached = course.reaches(goal)
        singly = [Course(course.steps, course.values[[seed]]).reaches(goal) for seed in range(course.seeds)]
        rows.append(
            (
                Cell(label),
                Cell(words.digits(mean), words.interval(low, high, words.digits) if course.seeds > 1 else ""),
                Cell("not reached" if reached is None else f"{reached:,}", _singly(singly), "" if reached else "quiet"),
            )
        )
        records.append(
            {"contestant": label, "budget": budget, "final_loss": mean, "low": low, "high": high, "reached_at": reached}
            | {"seeds_reach_at": " ".join("never" if one is None else str(one) for one in singly)}
        )
    if not rows:
        return None
    columns = (
        Column("Contestant"),
        Column("Final training loss", True),
        Column(f"Step that reaches {study.reference}’s final loss", True),
    )
    caption = (
        f"Convergence{within(budget)}: of the logged training losses a running mean over a tenth of the run. Its end, the mean "
        "over seeds, beneath it the lowest and the highest seed; and the first step at which that mean is as low as the "
        "reference’s end, beneath it the same of single seeds."
    )
    return Sheet(f"{study.name}-convergence{suffix(budget)}", caption, columns, tuple(rows), tuple(records))


def _singly(reached: Sequence[int | None]) -> str:
    """From the first seed to the last, and how many of them."""
    steps = [step for step in reached if step is not None]
    if len(reached) == 1 or not steps:
        return ""
    of = "" if len(steps) == len(reached) else f", {len(steps)} of {len(reached)} seeds"
    return (f"{min(steps):,} to {max(steps):,}" if len(steps) > 1 else f"{steps[0]:,}") + of


def rank_ends(study: Study, budget: int | None) -> Sheet | None:
    """Effective ranks when first measured and at the end."""
    rows, records = [], []
    for label in study.contestants:
        updates = study.updates(label, budget)
        courses = {measure: found for measure in RANKS if (found := ranks(updates, measure))}
        if not courses:
            continue
        sizes = sorted(frozenset[int]().union(*(one.sizes for one in updates)))
        errors = [one.folding_error for one in updates if one.folding_error is not None]
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
