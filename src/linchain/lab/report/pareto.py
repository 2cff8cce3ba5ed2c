"""Scores against what they cost, and where a label fits beside a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linchain.lab.report import words
from linchain.lab.report.content import Key, Picture
from linchain.lab.report.figures import axis, scale
from linchain.lab.report.study import Study, suffix, within
from linchain.lab.report.svg import ACCENT, INK, MUTED, SURFACE, Panel, draw, logarithmic

if TYPE_CHECKING:
    from linchain.lab.findings import Cost, Line, Range

SIZE = (4.1, 3.4)  # inches
LETTER, HEIGHT = 4.7, 10.0  # an average letter's width and a line's height, in points


@dataclass(frozen=True)
class Point:
    """A contestant's score and price, each with its interval, as the axes show them."""

    label: str
    score: tuple[float, float, float]
    price: Range


@dataclass(frozen=True)
class _Price:
    """`units`: those that an axis may have with their sizes, the smallest first."""

    name: str
    title: str
    of: Callable[[Cost], Range | None]
    shown: Callable[[float], str]
    units: tuple[tuple[str, float], ...]

    def unit(self, most: float) -> tuple[str, float]:
        """The largest one of which `most` is at least one."""
        return next((one for one in reversed(self.units) if most >= one[1]), self.units[0])


PRICES = (
    _Price("parameters", "Trained parameters", lambda cost: (cost.trainable,) * 3, words.count, (("", 1),)),
    _Price("memory", "Memory of a step", lambda cost: cost.memory_bytes, words.size, (("MiB", 2**20), ("GiB", 2**30))),
    _Price("time", "Time of a step", lambda cost: cost.seconds_per_step, words.seconds, (("ms", 1e-3), ("s", 1))),
)


def pareto(study: Study, budget: int | None) -> Picture | None:
    """The score against parameters, memory and time."""
    table, costs = study.main_table(budget), study.costs(budget)
    if table is None:
        return None
    panels = [
        panel
        for price in PRICES
        if (panel := _panel(study, budget, price, list(table.lines), costs, table.metric, table.higher_is_better))
    ]
    caption = (
        f"{axis(table.metric).capitalize()} on the test set{within(budget)} against its price. Vertical bars: 95 % interval of "
        "the score over test examples; horizontal bars: lowest and highest measured price. Filled: no other contestant is "
        "at once as good and as cheap (by the means alone; where bars overlap, chance may have put it there)."
    )
    legend = (Key("nobody is as good and as cheap", "accent", "dot"), Key("the others", "muted", "ring"))
    title = f"What a score costs{within(budget)}"
    return (
        Picture(f"{study.name}-pareto{suffix(budget)}", title, caption, tuple(panels), legend, wide=True)
        if panels
        else None
    )


def _panel(
    study: Study,
    budget: int | None,
    price: _Price,
    lines: Sequence[Line],
    costs: dict[str, Cost],
    metric: str,
    higher_is_better: bool,
) -> Panel | None:
    paid = {
        line.contestant: found
        for line in lines
        if line.contestant in costs and (found := price.of(costs[line.contestant])) is not None
    }
    unit, size = price.unit(max((median for median, _, _ in paid.values()), default=0))
    points = []
    for line in lines:
        if line.contestant in paid and line.value is not None and line.low is not None and line.high is not None:
            value, low, high = (scale(metric) * one for one in (line.value, line.low, line.high))
            median, least, most = (one / size for one in paid[line.contestant])
            points.append(Point(line.contestant, (value, low, high), (median, least, most)))
    if not points:
        return None
    best = front(points, higher_is_better)
    shown = [
        f"{point.label} {words.score(point.score[0] / scale(metric), metric)} for {price.shown(point.price[0] * size)}"
        for point in points
    ]
    label = price.title.lower() + (f", {unit}" if unit else "")
    text = (
        f"{axis(metric)} against {label}: {'; '.join(shown)}. "
        f"Nobody is as good and as cheap as {words.listed(point.label for point in best)}."
    )
    name = f"{study.name}-pareto{suffix(budget)}-{price.name}"
    return draw(name, text, lambda axes: _draw(axes, points, best, label, metric), SIZE, price.title)


def far_apart(points: Sequence[Point]) -> bool:
    """Whether prices are better shown on a logarithmic axis, which has no place for 0."""
    prices = [point.price[0] for point in points]
    return max(prices) > 8 * min(prices) > 0


def front(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """The points that no other one beats in score or price while being at least level in the other."""

    def beats(one: Point, other: Point) -> bool:
        sign = 1 if higher_is_better else -1
        gains = (sign * (one.score[0] - other.score[0]), other.price[0] - one.price[0])
        return min(gains) >= 0 and max(gains) > 0

    return [point for point in points if not any(beats(other, point) for other in points)]


def _draw(axes: Any, points: list[Point], best: list[Point], label: str, metric: str) -> None:
    for point in points:
        colour = ACCENT if point in best else MUTED
        (value, low, high), (price, least, most) = point.score, point.price
        axes.vlines(price, low, high, color=colour, linewidth=1, alpha=0.35)
        axes.hlines(value, least, most, color=colour, linewidth=1, alpha=0.6)
        axes.plot(price, value, "o", ms=6, color=ACCENT if point in best else SURFACE, mec=colour, mew=1.2)
    axes.margins(x=0.16, y=0.08)
    axes.set_xlabel(label)
    axes.set_ylabel(axis(metric))
    if far_apart(points):
        logarithmic(axes, "x", words.short_count)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: words.short_count(value))
        axes.locator_params(axis="x", nbins=5)
    axes.figure.draw_without_rendering()  # fixes where the points lie
    _label(axes, points)


def _label(axes: Any, points: list[Point]) -> None:
    """Names beside their points, each where it covers no point, price bar or other name, or the fewest; thin lines lead far."""
    at = 72 / axes.figure.dpi
    places, *ends = (
        at * axes.transData.transform([(point.price[end], point.score[0]) for point in points]) for end in range(3)
    )
    left, bottom, right, top = at * axes.bbox.extents
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    taken += [(least, y - 2, most, y + 2) for (least, y), (most, _) in zip(*ends, strict=True)]
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: -pair[1][1]):
        text = words.shortened(point.label, 24)
        width = LETTER * len(text)
        boxes = [_box(x, y, width, distance, angle) for distance in (7, 14, 24, 36, 50) for angle in range(0, 360, 30)]
        inside = [
            box for box in boxes if box[0] >= left and box[2] <= right + 4 and box[1] >= bottom and box[3] <= top + 6
        ]
        free = min(inside or boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(free)
        x_text, y_text = (free[0] + free[2]) / 2 - x, (free[1] + free[3]) / 2 - y
        far = math.hypot(max(free[0] - x, x - free[2], 0), max(free[1] - y, y - free[3], 0)) > 9
        axes.annotate(
            text,
            (point.price[0], point.score[0]),
            (x_text, y_text),
            textcoords="offset points",
            ha="center",
            va="center",
            color=INK,
            fontsize=8.5,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _box(x: float, y: float, width: float, distance: float, angle: int) -> tuple[float, float, float, float]:
    """A name's box whose nearest edge lies about `distance` from (x, y) in the direction of `angle` degrees."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre_x = x + across * (distance + width / 2)
    centre_y = y + up * (distance + HEIGHT / 2)
    return centre_x - width / 2, centre_y - HEIGHT / 2, centre_x + width / 2, centre_y + HEIGHT / 2


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
