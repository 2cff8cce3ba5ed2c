"""Scores of many runs on the same examples, and of the same resamples of those examples.

A statistic is a function of how often each example counts: float (..., n) -> float (..., runs). With ones it is the score
itself; with the counts of a resample, the score of that resample. All runs of a comparison share one set of resamples, so a
difference between two runs is paired, and resampling an example takes along every seed's answer to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
RESAMPLES = 10_000
_CHUNK = 2**20  # counts that are held at a time
_NO_SPREAD = 1e-12  # of the second moment: a smaller variance is rounding


def value(statistic: Statistic, n: int) -> np.ndarray:
    """The score itself of every run over `n` examples, (runs,)."""
    return statistic(np.ones(n))


def bootstrap(statistic: Statistic, n: int, seed: int = 0) -> np.ndarray:
    """`statistic` of 10,000 resamples of `n` examples, drawn with replacement: (resamples, runs). Equal seeds, equal draws."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    found = []
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        found.append(statistic(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)))
    return np.concatenate(found)


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The percentile interval, 95 %, of one run's replicates (resamples,)."""
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Statistic:
    """The mean of `values` (runs, n), weighted by `weights` of the same shape: shares, mean losses, losses over tokens."""
    if weights is None:
        return lambda counts: counts @ values.T / counts.sum(-1, keepdims=True)
    sums = (values * weights).T
    return lambda counts: (counts @ sums) / (counts @ weights.T)


def pearson(labels: np.ndarray, predictions: np.ndarray) -> Statistic:
    """Pearson's correlation of `labels` (n,) with each of `predictions` (runs, n); 0 where either side is constant."""
    x, y = labels - labels.mean(), (predictions - predictions.mean(1, keepdims=True)).T

    def statistic(counts: np.ndarray) -> np.ndarray:
        n, sum_x, sum_y = counts.sum(-1, keepdims=True), (counts @ x)[..., None], counts @ y
        spread_x = _spread(n * (counts @ (x * x))[..., None], sum_x)
        spread_y = _spread(n * (counts @ (y * y)), sum_y)
        return _ratio(n * (counts @ (x[:, None] * y)) - sum_x * sum_y, spread_x * spread_y)

    return statistic


def _spread(squares: np.ndarray, sums: np.ndarray) -> np.ndarray:
    variance = squares - sums * sums
    return np.sqrt(np.where(variance <= _NO_SPREAD * squares, 0.0, variance))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below != 0)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> Statistic:
    """Spearman's correlation, ties at their mean rank, ranked anew in every resample; shapes and 0 as in `pearson`."""
    rank_labels, ranks = _ranks(labels), [_ranks(run) for run in predictions]

    def statistic(counts: np.ndarray) -> np.ndarray:
        centre = (counts.sum(-1, keepdims=True) + 1) / 2  # the mean of ranks, whatever is drawn
        x = rank_labels(counts) - centre
        spread_x = np.sqrt((counts * x * x).sum(-1))
        found = []
        for rank in ranks:
            y = rank(counts) - centre
            found.append(_ratio((counts * x * y).sum(-1), spread_x * np.sqrt((counts * y * y).sum(-1))))
        return np.stack(found, -1)

    return statistic


def _ranks(values: np.ndarray) -> Statistic:
    """The rank of each example's value among all that are drawn: counts (..., n) -> ranks (..., n)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    group = np.empty(len(values), dtype=int)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))

    def ranks(counts: np.ndarray) -> np.ndarray:
        sizes = np.add.reduceat(counts[..., order], starts, axis=-1)
        return (np.cumsum(sizes, -1) - (sizes - 1) / 2)[..., group]

    return ranks


def matthews(labels: np.ndarray, predictions: np.ndarray) -> Statistic:
    """Matthews' correlation of classes for any number of them (Gorodkin 2004); shapes and 0 as in `pearson`."""
    classes = np.unique(np.concatenate([labels, predictions.ravel()]))
    correct = (predictions == labels).T.astype(float)
    of_labels = [(labels == name).astype(float) for name in classes]
    guessed = [(predictions == name).T.astype(float) for name in classes]

    def statistic(counts: np.ndarray) -> np.ndarray:
        n = counts.sum(-1, keepdims=True)
        sums_x = np.stack([(counts @ column)[..., None] for column in of_labels])
        sums_y = np.stack([counts @ columns for columns in guessed])
        spread = np.sqrt((n * n - (sums_x**2).sum(0)) * (n * n - (sums_y**2).sum(0)))
        return _ratio(n * (counts @ correct) - (sums_x * sums_y).sum(0), spread)

    return statistic
