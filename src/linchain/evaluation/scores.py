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


def score(metric: str, rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores that `metric` (loss, exact_match, accuracy, matthews or pearson) takes from prediction rows."""
    if metric == "loss":
        return _loss_scores(rows)
    if metric in SHARES:
        return [_share(metric, [row["correct"] for row in rows])]
    statistic = {"matthews": resampling.matthews, "pearson": resampling.pearson}[metric]
    labels, predictions = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
    return [_bootstrapped(metric, statistic(labels, predictions[None]), len(rows))]


def _bootstrapped(name: str, statistic: resampling.Statistic, n: int) -> Score:
    low, high = resampling.interval(resampling.bootstrap(statistic, n)[:, 0])
    return Score(name, float(resampling.value(statistic, n)[0]), low, high, n, "bootstrap over examples")


def _share(name: str, correct: Sequence[bool]) -> Score:
    low, high = wilson(sum(correct), len(correct))
    return Score(name, sum(correct) / len(correct), low, high, len(correct), "Wilson")


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The mean loss over all tokens (over examples for a classifier) of prediction rows."""
    return float(resampling.value(_mean_loss(rows), len(rows))[0])


def _mean_loss(rows: Sequence[dict[str, Any]]) -> resampling.Statistic:
    tokens = np.array([row.get("tokens", 1) for row in rows], dtype=float)
    return resampling.mean(np.array([[row["loss"] for row in rows]]), tokens[None])


def _loss_scores(rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The mean loss, and its exponential, the perplexity, where it is one over tokens."""
    loss = _bootstrapped("loss", _mean_loss(rows), len(rows))
    scores = [loss]
    if "tokens" in rows[0]:
        value, low, high = _exp(loss.value), _exp(loss.low), _exp(loss.high)
        scores.append(Score("perplexity", value, low, high, loss.n, loss.interval))
    return scores


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, extra = successes / n, Z * Z / n
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)
