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
_CHUNK = 2**16  # counts that are held at a time: they and what is made of them stay in a cache
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
    rank_labels, others = _ranks(labels), [_ordered(run) for run in predictions]

    def statistic(counts: np.ndarray) -> np.ndarray:
        drawn = np.ascontiguousarray(
            np.moveaxis(counts, -1, 0)
        )  # examples in front: sorting them then copies whole rows
        x = rank_labels(drawn)
        spread_x, drawn_x = np.sqrt((drawn * x * x).sum(0)), drawn * x
        found = []
        for order, starts in others:
            sizes, sums_x = _by_value(drawn, order, starts), _by_value(drawn_x, order, starts)
            y = _middle_ranks(sizes)
            found.append(_ratio((sums_x * y).sum(0), spread_x * np.sqrt((sizes * y * y).sum(0))))
        return np.stack(found, -1)

    return statistic


def _ordered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of `values`, and where in it each different value starts."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)


def _by_value(counts: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """`counts` (n, ...) summed over examples of one value: (values, ...)."""
    rows = counts[order]
    return rows if len(starts) == len(order) else np.add.reduceat(rows, starts, axis=0)


def _middle_ranks(sizes: np.ndarray) -> np.ndarray:
    """The rank of each value less the mean of all ranks, where `sizes` (values, ...) says how often it was drawn."""
    upto = np.cumsum(sizes, 0)
    return upto - (sizes + upto[-1]) / 2


def _ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Counts (n, ...) to the centred rank of each example's value among all that are drawn, of the same shape."""
    order, starts = _ordered(values)
    group = np.empty(len(values), dtype=int)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return lambda counts: _middle_ranks(_by_value(counts, order, starts))[group]


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
