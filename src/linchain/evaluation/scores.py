"""From per-example rows to scores with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linchain.evaluation import resampling

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Score:
    """A score and its 95 % interval over `n` examples. Shares (exact match, accuracy) lie in 0 … 1."""

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: str

    def shown(self) -> tuple[str, str]:
        """The value and its interval as text, shares in percent."""
        if self.name in SHARES:
            return f"{100 * self.value:.1f} %", f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{self.value:.4g}", f"{self.low:.4g} to {self.high:.4g}"


SHARES = ("exact_match", "accuracy")
CORRELATIONS = {"matthews": resampling.matthews, "pearson": resampling.pearson, "spearman": resampling.spearman}


def score(metric: str, rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores that `metric` (loss, exact_match, accuracy, or one of CORRELATIONS) takes from prediction rows."""
    if metric == "loss":
        # over tokens it has an exponential, the perplexity
        return [_bootstrapped(name, rows) for name in ("loss", "perplexity")[: 1 + ("tokens" in rows[0])]]
    if metric in SHARES:
        return [_share(metric, [row["correct"] for row in rows])]
    return [_bootstrapped(metric, rows)]


def statistic(metric: str, runs: Sequence[Sequence[dict[str, Any]]]) -> resampling.Statistic:
    """`metric` of runs over the same examples, each run a list of prediction rows, as a function of the examples' counts."""
    if metric in CORRELATIONS:
        labels = np.array([row["label"] for row in runs[0]])
        return CORRELATIONS[metric](labels, np.array([[row["prediction"] for row in rows] for rows in runs]))
    if metric in SHARES:
        return resampling.mean(np.array([[row["correct"] for row in rows] for rows in runs], dtype=float))
    losses, tokens = (
        np.array([[row.get(key, 1) for row in rows] for rows in runs], dtype=float) for key in ("loss", "tokens")
    )
    loss = resampling.mean(losses, tokens)
    return loss if metric == "loss" else lambda counts: _exp(loss(counts))


def _bootstrapped(name: str, rows: Sequence[dict[str, Any]]) -> Score:
    of_counts, n = statistic(name, [rows]), len(rows)
    low, high = resampling.interval(resampling.bootstrap(of_counts, n)[:, 0])
    return Score(name, float(resampling.value(of_counts, n)[0]), low, high, n, "bootstrap over examples")


def _share(name: str, correct: Sequence[bool]) -> Score:
    low, high = wilson(sum(correct), len(correct))
    return Score(name, sum(correct) / len(correct), low, high, len(correct), "Wilson")


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The mean loss over all tokens (over examples for a classifier) of prediction rows."""
    return float(resampling.value(statistic("loss", [rows]), len(rows))[0])


def _exp(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(values)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, extra = successes / n, Z * Z / n
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)
