"""From per-example rows to scores with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
RESAMPLES = 2000


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
    statistic = {"matthews": matthews, "pearson": pearson}[metric]
    left, right = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
    low, high = bootstrap(lambda chosen: statistic(left[chosen], right[chosen]), len(rows))
    return [Score(metric, statistic(left, right), low, high, len(rows), "bootstrap over examples")]


def _share(name: str, correct: Sequence[bool]) -> Score:
    low, high = wilson(sum(correct), len(correct))
    return Score(name, sum(correct) / len(correct), low, high, len(correct), "Wilson")


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The mean loss over all tokens (over examples for a classifier) of prediction rows."""
    sums, tokens = _sums_and_tokens(rows)
    return float(sums.sum() / tokens.sum())


def _sums_and_tokens(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([row.get("tokens", 1) for row in rows], dtype=float)
    return np.array([row["loss"] for row in rows]) * tokens, tokens


def _loss_scores(rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The mean loss, and its exponential, the perplexity, where it is one over tokens."""
    sums, tokens = _sums_and_tokens(rows)

    value = mean_loss(rows)
    low, high = bootstrap(lambda chosen: float(sums[chosen].sum() / tokens[chosen].sum()), len(rows))
    kind = "bootstrap over examples"
    scores = [Score("loss", value, low, high, len(rows), kind)]
    if "tokens" in rows[0]:
        scores.append(Score("perplexity", _exp(value), _exp(low), _exp(high), len(rows), kind))
    return scores


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, extra = successes / n, Z * Z / n
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    """Percentile interval of `statistic` (of the chosen rows' indices) over 2,000 resamples of `n` rows, seeded."""
    generator = np.random.default_rng(0)
    values = [statistic(generator.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where either side is constant."""
    classes = np.unique(np.concatenate([labels, predictions]))
    left, right = (values[:, None] == classes for values in (labels, predictions))
    left, right = left - left.mean(0), right - right.mean(0)
    spread = math.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / spread) if spread else 0.0


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's correlation; 0 where either side is constant."""
    left, right = labels - labels.mean(), predictions - predictions.mean()
    spread = math.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / spread) if spread else 0.0
