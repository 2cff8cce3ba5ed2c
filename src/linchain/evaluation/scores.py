"""From per-example rows to scores with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linchain import tasks
from linchain.evaluation import resampling

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Score:
    """A score and its 95 % interval over `n` examples. Shares (exact match, accuracy) lie in 0 … 1.

    `task` names the task of the examples, where they are of one; the macro mean over several tasks is that of MEAN.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: str
    task: str | None = None

    def shown(self) -> tuple[str, str]:
        """The value and its interval as text, shares in percent."""
        if self.name in SHARES:
            return f"{100 * self.value:.1f} %", f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{self.value:.4g}", f"{self.low:.4g} to {self.high:.4g}"


SHARES = ("exact_match", "accuracy")
CORRELATIONS = {"matthews": resampling.matthews, "pearson": resampling.pearson, "spearman": resampling.spearman}


LOWER_IS_BETTER = ("loss", "perplexity")
# The metric of rows of several tasks that are each scored by their own.
BY_TASK = "auto"
MEAN = "mean"
# The keys of a prediction row that some metric is taken from.
MEASURED = ("correct", "label", "prediction", "loss", "tokens")
Columns = Mapping[str, np.ndarray]


def score(metric: str, rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores that `metric` takes from prediction rows: for each task of theirs, and then the mean over several tasks.

    `metric` is loss, exact_match, accuracy, one of CORRELATIONS, or BY_TASK for each task's own. The first score of a task
    is that of its metric: a loss over tokens has its exponential beside it, Pearson's correlation Spearman's. The mean gives
    tasks equal weights; where a loss would be averaged with what is better when it is higher, there is none.
    """
    groups: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row.get("task"), []).append(row)
    metrics = {task: _metric_of(metric, task) for task in groups}
    found = [replace(one, task=task) for task, group in groups.items() for one in _scores_of_task(metrics[task], group)]
    if len(groups) > 1 and len({name in LOWER_IS_BETTER for name in metrics.values()}) == 1:
        found.append(_macro_mean([(metrics[task], group) for task, group in groups.items()]))
    return found


def _metric_of(metric: str, task: str | None) -> str:
    return tasks.get(task).metric if metric == BY_TASK and task is not None else metric


def _scores_of_task(metric: str, rows: Sequence[dict[str, Any]]) -> list[Score]:
    if metric in SHARES:
        return [_share(metric, [row["correct"] for row in rows])]
    beside = {"loss": ["perplexity"] if "tokens" in rows[0] else [], "pearson": ["spearman"]}
    return [_bootstrapped(name, rows) for name in (metric, *beside.get(metric, ()))]


def _macro_mean(parts: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Score:
    """The mean over tasks; its interval is over examples of each, drawn independently."""
    statistics = [(statistic(metric, [columns(rows)]), len(rows)) for metric, rows in parts]
    value = np.mean([resampling.value(one, n)[0] for one, n in statistics])
    drawn = [resampling.bootstrap(one, n, seed)[:, 0] for seed, (one, n) in enumerate(statistics)]
    low, high = resampling.interval(np.mean(drawn, axis=0))
    names = {metric for metric, _ in parts}
    name = names.pop() if len(names) == 1 else MEAN
    return Score(name, float(value), low, high, sum(n for _, n in statistics), "bootstrap over examples", MEAN)


def columns(rows: Sequence[dict[str, Any]]) -> Columns:
    """What metrics are taken from prediction rows by: of each such key that the rows have, a column (n,). No texts."""
    return {key: np.array([row[key] for row in rows]) for key in MEASURED if key in rows[0]}


def statistic(metric: str, runs: Sequence[Columns]) -> resampling.Statistic:
    """`metric` of runs over the same examples, each run its `columns`, as a function of the examples' counts."""
    if metric in CORRELATIONS:
        return CORRELATIONS[metric](runs[0]["label"], np.array([run["prediction"] for run in runs]))
    if metric in SHARES:
        return resampling.mean(np.array([run["correct"] for run in runs], dtype=float))
    tokens = np.array([run["tokens"] for run in runs], dtype=float) if "tokens" in runs[0] else None
    loss = resampling.mean(np.array([run["loss"] for run in runs], dtype=float), tokens)
    return loss if metric == "loss" else lambda counts: _exp(loss(counts))


def _bootstrapped(name: str, rows: Sequence[dict[str, Any]]) -> Score:
    of_counts, n = statistic(name, [columns(rows)]), len(rows)
    low, high = resampling.interval(resampling.bootstrap(of_counts, n)[:, 0])
    return Score(name, float(resampling.value(of_counts, n)[0]), low, high, n, "bootstrap over examples")


def _share(name: str, correct: Sequence[bool]) -> Score:
    low, high = wilson(sum(correct), len(correct))
    return Score(name, sum(correct) / len(correct), low, high, len(correct), "Wilson")


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The mean loss over all tokens (over examples for a classifier) of prediction rows."""
    return float(resampling.value(statistic("loss", [columns(rows)]), len(rows))[0])


def _exp(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(values)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, extra = successes / n, Z * Z / n
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)  # rounding can leave the share out
