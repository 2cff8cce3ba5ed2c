"""The figures of scores and learning: intervals, loss curves, learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from linchain.evaluation.scores import SHARES
from linchain.lab.choice import NOT_RUN, Choice, higher_is_better, validation_score
from linchain.lab.report import words
from linchain.lab.report.content import Key, Picture
from linchain.lab.report.series import Course, losses
from linchain.lab.report.study import Study, suffix, within
from linchain.lab.report.svg import ACCENT, CONTRAST, DASHED, INK, MUTED, SURFACE, Panel, draw, logarithmic

if TYPE_CHECKING:
    from linchain.lab.findings import Line, Table

LOSSES = {"loss": "Training loss", "eval_loss": "Validation loss"}


def scale(metric: str) -> float:
    """What a score is multiplied by where axes show it."""
    return 100 if metric in SHARES else 1


def axis(metric: str) -> str:
    """What is written beside an axis of scores."""
    return words.metric_name(metric) + (", %" if metric in SHARES else "")


def intervals(study: Study, budget: int | None) -> Picture | None:
    """Scores with their intervals and single seeds, a panel a test."""
    tables = [table for table in study.analysis.tables if table.budget == budget]
    panels = [_interval_panel(study, table) for table in tables if _scored(table)]
    if not panels:
        return None
    caption = (
        "Dot: the mean over seeds. Bar: 95 % interval over the test examples, by bootstrap (Wilson’s where all answers are "
        "right, or all wrong); it says how far the score would move with other examples. Rings: single seeds; they say how "
        "far it moves with another run. "
        f"Dashed: the reference, {study.reference}."
    )
    legend = (
        Key("mean over seeds", "accent", "dot"),
        Key("95 % interval over test examples", "accent"),
        Key("one seed", "ink", "ring"),
        Key(f"reference ({study.reference})", "contrast", "dashed"),
    )
    return Picture(
        f"{study.name}-intervals{suffix(budget)}",
        f"Intervals and single seeds{within(budget)}",
        caption,
        tuple(panels),
        legend,
        wide=True,
    )


def _scored(table: Table) -> list[Line]:
    return [line for line in table.lines if line.value is not None and line.low is not None and line.high is not None]


def _interval_panel(study: Study, table: Table) -> Panel:
    lines, factor = _scored(table), scale(table.metric)
    reference = next((line.value for line in lines if line.contestant == study.reference), None)

    def drawing(axes: Any) -> None:
        for place, line in enumerate(reversed(lines)):
            assert line.value is not None
            assert line.low is not None
            assert line.high is not None
            axes.hlines(place, factor * line.low, factor * line.high, color=ACCENT, linewidth=2.2, alpha=0.55)
            seeds = [factor * seed.value for seed in line.seeds]
            axes.plot(seeds, [place - 0.27] * len(seeds), "o", ms=3, mfc="none", mec=INK, mew=0.8)
            axes.plot(factor * line.value, place, "o", ms=6, color=ACCENT, mec=SURFACE)
        if reference is not None:
            axes.axvline(factor * reference, color=CONTRAST, linewidth=1.1, linestyle=DASHED, zorder=0)
        axes.set_yticks(range(len(lines)), [words.shortened(line.contestant, 22) for line in reversed(lines)])
        axes.set_ylim(-0.7, len(lines) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", colors=INK)
        axes.set_xlabel(axis(table.metric))

    shown = [
        f"{line.contestant} {words.score(line.value, table.metric)} "
        f"({words.interval(line.low, line.high, lambda value: words.score(value, table.metric))})"
        for line in lines
    ]
    text = f"{axis(table.metric)} {words.on(table.test)}, best first: {'; '.join(shown)}."
    name = f"{study.name}-interval-{study.analysis.tables.index(table)}"
    note = f"{words.count(table.n)} examples"
    return draw(name, text, drawing, (4.1, 0.75 + 0.29 * len(lines)), study.title(table), note)


def loss_curves(study: Study, budget: int | None, key: str) -> Picture | None:
    """A panel a contestant, each beside the reference. `key` as in `series.losses`."""
    courses = {label: losses(study.runs(label, budget), key) for label in study.contestants}
    found = {label: course for label, course in courses.items() if course is not None and len(course.steps) > 1}
    if not found:
        return None
    limits = _limits(found.values())
    reference = found.get(study.reference)
    panels = tuple(
        _loss_panel(f"{study.name}-{key}{suffix(budget)}-{number}", label, course, study.reference, reference, limits)
        for number, (label, course) in enumerate(found.items())
    )
    seeds = words.over_seeds(course.seeds for course in found.values())
    caption = (
        f"{LOSSES[key]} by optimizer step{within(budget)}, at the learning rate chosen for each: {seeds}, "
        f"band from the lowest to the highest of them. Grey: the reference, {study.reference}. All panels share their axes"
        + ("; what lies above them is cut." if any(course.high.max() > limits[1] for course in found.values()) else ".")
    )
    legend = (
        Key("mean over seeds", "accent"),
        Key("lowest to highest seed", "accent", "band"),
        Key(f"reference ({study.reference})", "muted", "dashed"),
    )
    return Picture(f"{study.name}-{key}{suffix(budget)}", f"{LOSSES[key]}{within(budget)}", caption, panels, legend)


def _limits(courses: Iterable[Course]) -> tuple[float, float]:
    """The losses that nearly all points lie within: one contestant that diverged must not flatten the others."""
    found = list(courses)
    values = np.concatenate([course.mean for course in found])
    low, high = min(float(course.low.min()) for course in found), float(np.quantile(values, 0.99))
    room = 0.06 * (high - low or abs(high) or 1)
    return low - room, high + room


def _loss_panel(
    name: str, label: str, course: Course, against: str, reference: Course | None, limits: tuple[float, float]
) -> Panel:
    def drawing(axes: Any) -> None:
        if reference is not None and label != against:
            axes.plot(reference.steps, reference.mean, color=MUTED, linewidth=1.2, linestyle=DASHED)
        axes.fill_between(course.steps, course.low, course.high, color=ACCENT, alpha=0.22, linewidth=0)
        axes.plot(course.steps, course.mean, color=ACCENT)
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step")

    end = f"from {course.mean[0]:.3g} at step {course.steps[0]} to {course.mean[-1]:.3g} at step {course.steps[-1]}"
    text = f"{label}: {end}, at the end between {course.low[-1]:.3g} and {course.high[-1]:.3g} by seed."
    if reference is not None and label != against:
        text += f" The reference {against} ends at {reference.mean[-1]:.3g}."
    return draw(name, text, drawing, title=label, note="the reference" if label == against else "")


def learning_rates(study: Study, budget: int | None) -> Picture | None:
    """The validation score over the searched learning rates, a panel a contestant."""
    searches = study.searches(budget)
    if not searches:
        return None
    metric = study.searched_by(budget)
    scores = {label: _validated(study, label, budget) for label in searches}
    limits = _rate_limits(scores.values(), metric)
    panels = tuple(
        _rate_panel(f"{study.name}-rates{suffix(budget)}-{number}", label, search, scores[label], metric, limits)
        for number, (label, search) in enumerate(searches.items())
    )
    caption = (
        f"{axis(metric).capitalize()} on the validation split over the learning rate{within(budget)}: one run each, bar the "
        "95 % interval over the validation examples. The filled dot is the rate that was chosen, a cross one whose run "
        "failed. A choice at the edge of the grid says that a better rate may lie beyond it. All panels share the score’s axis"
        + ("; what lies above it stands in the table." if _highest(scores.values()) > limits[1] else ".")
    )
    legend = (
        Key("chosen", "accent", "dot"),
        Key("other rates", "accent", "ring"),
        Key("failed", "contrast", "cross"),
    )
    name = f"{study.name}-learning-rates{suffix(budget)}"
    return Picture(name, f"Search of the learning rate{within(budget)}", caption, panels, legend)


def _highest(scores: Iterable[Mapping[float, Mapping[str, Any]]]) -> float:
    return max((score["value"] for contestant in scores for score in contestant.values()), default=-math.inf)


def _rate_limits(scores: Iterable[Mapping[float, Mapping[str, Any]]], metric: str) -> tuple[float, float]:
    """From the lowest to the highest end of an interval, without the far end of a loss that some rates blew up."""
    found = [score for contestant in scores for score in contestant.values()]
    ends = [score[end] for score in found for end in ("low", "high") if math.isfinite(score[end])]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    if not higher_is_better(metric):
        high = min(high, float(np.quantile([score["value"] for score in found], 0.85)) * 1.15)
    room = 0.05 * (high - low or abs(high) or 1)
    return low - room, high + room


def _validated(study: Study, label: str, budget: int | None) -> dict[float, dict[str, Any]]:
    """Learning rate -> the score that it was judged by, where that is a number."""
    found = {trial.learning_rate: validation_score(trial.result) for trial in study.runs(label, budget, "search")}
    return {
        rate: score for rate, score in found.items() if score["value"] is not None and math.isfinite(score["value"])
    }


def _rate_panel(
    name: str,
    label: str,
    search: Choice,
    scores: Mapping[float, Mapping[str, Any]],
    metric: str,
    limits: tuple[float, float],
) -> Panel:
    factor = scale(metric)
    searched = [point.learning_rate for point in search.curve]
    without = {point.learning_rate: point.error for point in search.curve if point.value is None}
    failed = [rate for rate, error in without.items() if error != NOT_RUN]

    def drawing(axes: Any) -> None:
        rates = [rate for rate in searched if rate in scores]
        axes.plot(rates, [factor * scores[rate]["value"] for rate in rates], color=ACCENT, linewidth=1.2)
        for rate in rates:
            value, low, high = (factor * scores[rate][end] for end in ("value", "low", "high"))
            axes.vlines(rate, low, high, color=ACCENT, linewidth=1.2, alpha=0.5)
            chosen = rate == search.learning_rate
            axes.plot(
                rate, value, "o", ms=7 if chosen else 4.5, color=ACCENT if chosen else SURFACE, mec=ACCENT, mew=1.2
            )
        floor = factor * (limits[0] + 0.05 * (limits[1] - limits[0]))
        axes.plot(failed, [floor] * len(failed), "x", color=CONTRAST, ms=7, mew=1.6)
        axes.set_ylim(factor * limits[0], factor * limits[1])
        room = (searched[-1] / searched[0]) ** 0.12
        axes.set_xlim(searched[0] / room, searched[-1] * room)
        logarithmic(axes, "x")
        axes.set_xticks(searched, [words.rate(rate) for rate in searched])
        axes.set_ylabel(axis(metric))

    shown = [
        f"{words.score(scores[rate]['value'], metric)} at {words.rate(rate)}" for rate in searched if rate in scores
    ]
    shown += [f"{'not run' if error == NOT_RUN else 'failed'} at {words.rate(rate)}" for rate, error in without.items()]
    note = f"chosen {words.rate(search.learning_rate)}" if search.learning_rate is not None else "nothing chosen yet"
    text = f"{label}: {', '.join(shown)}; {note}."
    if search.edge:
        note += f", at the {words.edge(search.edge)}"
    return draw(name, text, drawing, title=label, note=note)
