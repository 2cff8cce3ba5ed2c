"""The figures of the update itself: its ranks along training, its factors' singular values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from linchain.lab.report.content import Key, Mark, Picture
from linchain.lab.report.series import RANKS, Course, factor_spectra, gradients, in_order, ranks
from linchain.lab.report.study import Study, suffix, within
from linchain.lab.report.svg import ACCENT, CONTRAST, DASHED, DOTTED, INK, THIRD, Panel, draw, logarithmic

Courses = Mapping[str, Course]
SOLID = "-"
MARKS: dict[Any, Mark] = {SOLID: "line", DASHED: "dashed", DOTTED: "dotted"}


@dataclass(frozen=True)
class Look:
    """How a line is drawn, the same in every figure."""

    label: str
    role: str
    colour: str
    dashes: Any

    @property
    def key(self) -> Key:
        return Key(self.label, self.role, MARKS[self.dashes])


@dataclass(frozen=True)
class _Axes:
    """What the panels of a figure have in common; y is logarithmic: methods differ by factors."""

    x: str
    y: str
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    looks: Mapping[str, Look]


MEASURES = {
    "entropy_rank": Look("entropy rank", "accent", ACCENT, SOLID),
    "participation_ratio": Look("participation ratio", "third", THIRD, DASHED),
    "stable_rank": Look("stable rank", "contrast", CONTRAST, DOTTED),
}


def rank_courses(study: Study, budget: int | None) -> Picture | None:
    """How many directions ΔW uses along training, a panel a contestant."""
    found = {}
    for label in study.contestants:
        updates = study.updates(label, budget)
        found[label] = {measure: one for measure in RANKS if (one := ranks(updates, measure)) is not None}
    caption = (
        f"Effective ranks of ΔW along training{within(budget)}, logarithmic: means over the measured modules and over seeds, "
        "band from the lowest to the highest seed. Steps at which ΔW is zero are left out. None of the three can exceed the "
        "rank r of a low-rank adapter, however long its chain. All panels share their axes."
    )
    name = f"{study.name}-ranks{suffix(budget)}"
    title = f"Effective rank of the update{within(budget)}"
    return _picture(name, title, caption, found, MEASURES, ("step", "rank"), _ends("{:.2f}".format))


def gradient_courses(study: Study, budget: int | None) -> Picture | None:
    """The norm of each factor's gradient along training, a panel a contestant."""
    found = {label: gradients(study.updates(label, budget)) for label in study.contestants}
    caption = (
        f"Norm of the loss’s gradient with respect to each factor along training{within(budget)}, logarithmic: means over the "
        "measured modules and over seeds, band from the lowest to the highest seed. Where a gradient is exactly zero (all "
        "but B’s, while B is zero) nothing is drawn. All panels share their axes."
    )
    name = f"{study.name}-gradients{suffix(budget)}"
    title = f"Gradient by factor{within(budget)}"
    return _picture(name, title, caption, found, _looks(found), ("step", "norm"), _ends("{:.2g}".format))


def spectra(study: Study, budget: int | None, last: bool) -> Picture | None:
    """The singular values of each factor and of A·W1…Wn, a panel a contestant."""
    found = {label: factor_spectra(study.updates(label, budget), last) for label in study.contestants}
    when = "at the end of training" if last else "at the start"
    caption = (
        f"Singular values of the factors {when}{within(budget)}, each over its largest, logarithmic: means over the measured "
        "modules and over seeds. A flat line uses all directions alike; a falling one uses few. AW is the product A·W1…Wn; a "
        "factor that is zero is left out. All panels share their axes."
    )
    name = f"{study.name}-spectra-{'end' if last else 'start'}{suffix(budget)}"
    title = f"Singular values {when}{within(budget)}"

    def told(course: Course) -> str:
        return f"the smallest is {course.mean[-1]:.2g} of the largest"

    return _picture(name, title, caption, found, _looks(found), ("singular value", "over the largest"), told)


def _looks(found: Mapping[str, Courses]) -> dict[str, Look]:
    return {name: _factor_look(name) for name in in_order({name for courses in found.values() for name in courses})}


def _factor_look(name: str) -> Look:
    if name == "A":
        return Look(name, "accent", ACCENT, SOLID)
    if name == "B":
        return Look(name, "contrast", CONTRAST, SOLID)
    if name[:1] == "W" and name[1:].isdigit():
        return Look(name, "third", THIRD, (SOLID, DASHED, DOTTED)[(int(name[1:]) - 1) % 3])
    return Look(name, "ink", INK, DASHED)


def _ends(shown: Callable[[float], str]) -> Callable[[Course], str]:
    def told(course: Course) -> str:
        return f"{shown(course.mean[0])} at step {course.steps[0]}, {shown(course.mean[-1])} at step {course.steps[-1]}"

    return told


def _picture(
    name: str,
    title: str,
    caption: str,
    found: Mapping[str, Courses],
    looks: Mapping[str, Look],
    names: tuple[str, str],
    told: Callable[[Course], str],
) -> Picture | None:
    """A panel for each contestant that has courses; `names` are those of the axes, `told` says what a course shows."""
    shown = {label: courses for label, courses in found.items() if courses}
    if not shown:
        return None
    axes = _Axes(*names, *_limits(shown), looks)
    panels = tuple(
        _panel(f"{name}-{number}", label, courses, axes, told) for number, (label, courses) in enumerate(shown.items())
    )
    return Picture(name, title, caption, panels, tuple(look.key for look in looks.values()))


def _limits(found: Mapping[str, Courses]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the steps and of the values, with some room."""
    courses = [course for one in found.values() for course in one.values()]
    steps = np.concatenate([course.steps for course in courses])
    values = np.concatenate([course.mean for course in courses])
    positive = values[values > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
    room = 0.04 * float(steps.max() - steps.min() or 1)
    return (float(steps.min()) - room, float(steps.max()) + room), (max(low / 1.3, high * 1e-8), high * 1.3)


def _panel(name: str, label: str, courses: Courses, shared: _Axes, told: Callable[[Course], str]) -> Panel:
    def drawing(axes: Any) -> None:
        for key, course in courses.items():
            look = shared.looks[key]
            axes.plot(
                course.steps, np.where(course.mean > 0, course.mean, np.nan), color=look.colour, linestyle=look.dashes
            )
            axes.fill_between(course.steps, course.low, course.high, color=look.colour, alpha=0.15, linewidth=0)
        axes.set_xlim(*shared.x_limits)
        axes.set_ylim(*shared.y_limits)
        axes.set_xlabel(shared.x)
        axes.set_ylabel(shared.y)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        logarithmic(axes, "y")

    text = "; ".join(f"{shared.looks[key].label}: {told(course)}" for key, course in courses.items())
    return draw(name, f"{label}, {shared.y} by {shared.x}. {text}.", drawing, title=label)
