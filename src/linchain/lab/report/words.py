"""Figures as people read them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence

from linchain.evaluation.scores import CORRELATIONS, MEAN, SHARES
from linchain.lab.choice import Edge
from linchain.lab.findings import ONLY_TEST

METRICS = {
    "exact_match": "exact match",
    "mean": "mean score",
    "matthews": "Matthews’ correlation",
    "pearson": "Pearson’s correlation",
    "spearman": "Spearman’s correlation",
}
NONE = "–"


def metric_name(metric: str) -> str:
    """
    >>> metric_name("exact_match"), metric_name("loss")
    ('exact match', 'loss')
    """
    return METRICS.get(metric, metric)


def on(test: str) -> str:
    """What a score is of, from a table's test.

    >>> on("gsm8k"), on("mean"), on("test")
    ('on gsm8k', 'as the mean over the tasks, each weighted equally', 'on the test split')
    """
    if test == MEAN:
        return "as the mean over the tasks, each weighted equally"
    return "on the test split" if test == ONLY_TEST else f"on {test}"


def score(value: float | None, metric: str) -> str:
    """A score: shares in percent, correlations with three decimals.

    >>> score(0.6137, "accuracy"), score(0.6137, "pearson"), score(2.34967, "loss")
    ('61.4 %', '0.614', '2.350')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if metric in SHARES:
        return f"{100 * value:.1f} %"
    return _sign(f"{value:.3f}") if metric in CORRELATIONS else _sign(digits(value, 4))


def difference(value: float, metric: str, like: float | None = None) -> str:
    """A difference of scores, with its sign; with as many decimals as the score `like`, where that is given.

    >>> difference(-0.0123, "accuracy"), difference(0.0123, "loss"), difference(-0.0001, "accuracy")
    ('−1.2', '+0.0123', '0.0')
    >>> difference(0.0123, "loss", like=3.037), difference(1.2345, "perplexity", like=20.85)
    ('+0.012', '+1.23')
    """
    factor, form = (100, ".1f") if metric in SHARES else (1, ".3f" if metric in CORRELATIONS else "#.3g")
    if form == "#.3g" and like is not None:
        form = f".{len(score(like, metric).partition('.')[2])}f"
    shown = f"{factor * value:+{form}}".rstrip(".")
    return _sign(shown) if float(shown) else shown[1:]


def spread(value: float, metric: str, like: float | None = None) -> str:
    """A standard deviation of scores.

    >>> spread(0.0123, "accuracy"), spread(0.0123, "pearson")
    ('1.2', '0.012')
    """
    return difference(value, metric, like).removeprefix("+")


def interval(low: float | None, high: float | None, shown: Callable[[float], str]) -> str:
    """
    The unit is said once.

    >>> interval(0.5, 0.7, lambda value: score(value, "accuracy")), interval(0.9, 1.2, seconds)
    ('50.0 to 70.0 %', '900 ms to 1.20 s')
    """
    if low is None or high is None:
        return ""
    left, right = shown(low), shown(high)
    number, _, unit = left.partition(" ")
    return f"{number if right.endswith(f' {unit}') else left} to {right}"


def unit(metric: str) -> str:
    """What a difference is counted in."""
    return "points" if metric in SHARES else metric_name(metric)


def rate(value: float | None) -> str:
    """A learning rate.

    >>> rate(0.0003), rate(0.00025)
    ('3e-4', '2.5e-4')
    """
    if value is None:
        return NONE
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def edge(which: Edge | None) -> str:
    """
    >>> edge("low"), edge(None)
    ('lower edge of the grid', '')
    """
    return {"low": "lower edge of the grid", "high": "upper edge of the grid", None: ""}[which]


def count(value: int | float) -> str:
    """
    >>> count(1319), count(28311552)
    ('1,319', '28.31 M')
    """
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.2f} M"


def short_count(value: float) -> str:
    """A number beside an axis.

    >>> short_count(500), short_count(200_000), short_count(1.5e6)
    ('500', '200 k', '1.5 M')
    """
    if value < 1000:
        return f"{value:g}"
    return f"{value / 1000:g} k" if value < 1e6 else f"{value / 1e6:g} M"


def digits(value: float, number: int = 3) -> str:
    """Significant digits, none of them left out.

    >>> digits(0.78), digits(100)
    ('0.780', '100')
    """
    return f"{value:#.{number}g}".rstrip(".")


def seconds(value: float) -> str:
    """
    >>> seconds(0.0412), seconds(3.2), seconds(100), seconds(432), seconds(8000)
    ('41.2 ms', '3.20 s', '100 s', '7.2 min', '2.22 h')
    """
    if value < 120:
        number, unit = (value, "s") if value >= 1 else (1000 * value, "ms")
        return f"{digits(number)} {unit}"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.2f} h"


def size(value: float) -> str:
    """Bytes.

    >>> size(3 * 2**20), size(1.5 * 2**30)
    ('3 MiB', '1.50 GiB')
    """
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


def p_value(value: float | None) -> str:
    """
    >>> p_value(0.00004), p_value(0.034), p_value(0.61)
    ('< 0.001', '0.034', '0.61')
    """
    if value is None:
        return NONE
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def value(option: object) -> str:
    """A configuration's value.

    >>> value(["q_proj", "v_proj"]), value(True), value(None)
    ('q_proj, v_proj', 'true', 'None')
    """
    if isinstance(option, list | tuple):
        return ", ".join(value(one) for one in option)
    return json.dumps(option) if isinstance(option, bool) else str(option)


def listed(items: Iterable[object]) -> str:
    """
    >>> listed([0, 1, 2])
    '0, 1 and 2'
    """
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def first(items: Sequence[object], most: int = 6) -> str:
    """The first ones and how many more there are; all where one only would be left out.

    >>> first([1, 2, 3]), first([1, 2, 3, 4], 2)
    ('1, 2 and 3', '1, 2 and 2 more')
    """
    return listed(items if len(items) <= most + 1 else [*items[:most], f"{len(items) - most} more"])


def plural(number: int, one: str) -> str:
    """
    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number:,} {one}" + ("" if number == 1 else "s")


def over_seeds(counts: Iterable[int]) -> str:
    """What a figure is the mean over, from how many seeds the contestants have.

    >>> over_seeds([1, 1]), over_seeds([3, 3, 2])
    ('one seed', 'the mean over 2 and 3 seeds')
    """
    found = sorted(set(counts))
    return "one seed" if found == [1] else f"the mean over {listed(found)} seeds"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, the end left out."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _sign(number: str) -> str:
    return number.replace("-", "−")
