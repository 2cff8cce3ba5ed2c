"""The final runs of all contestants on one test, resampled together, and what tells two of them apart."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from linchain.errors import LinchainError
from linchain.evaluation import resampling
from linchain.evaluation.scores import SHARES, Columns, columns, statistic, wilson
from linchain.lab.findings import Difference, SeedScore
from linchain.lab.statistics import (
    ALPHA,
    DETECTABLE,
    bootstrap_p,
    holm,
    mcnemar,
    smallest_difference,
    welch,
)

if TYPE_CHECKING:
    from linchain.lab.trials import Trial

MCNEMAR, BOOTSTRAP = "exact McNemar", "paired bootstrap over examples"
Part = tuple[str | None, str]  # a task and its metric


@dataclass(frozen=True)
class FinalRun:
    """A finished run with the columns of its prediction rows, by task: a plan has many runs, and texts are long."""

    contestant: str
    seed: int
    columns: Mapping[str | None, Columns]

    def n(self, task: str | None) -> int:
        """The examples of a task."""
        return len(next(iter(self.columns[task].values())))

    def gives_one_answer(self, task: str | None) -> bool:
        """Whether the same class or number was predicted for every example of a task."""
        predicted = self.columns[task].get("prediction")
        return predicted is not None and len(predicted) > 1 and len(np.unique(predicted)) == 1

    def most_frequent(self, task: str | None) -> float | None:
        """The share of the most frequent label of a task; None where it has no labels."""
        labels = self.columns[task].get("label")
        return None if labels is None else float(np.unique(labels, return_counts=True)[1].max() / len(labels))


@dataclass(frozen=True)
class Sample:
    """One contestant on one test. The replicates of all contestants are of the same resamples: differences are paired.

    replicates: (resamples,), the mean over seeds; correct: bool (n,) of a single run that is right or wrong, else None.
    """

    metric: str
    n: int
    seeds: tuple[SeedScore, ...]
    replicates: np.ndarray
    correct: np.ndarray | None

    @property
    def values(self) -> list[float]:
        return [seed.value for seed in self.seeds]

    @property
    def value(self) -> float:
        return statistics.fmean(self.values)

    @property
    def seed_sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.seeds) > 1 else None

    def interval(self) -> tuple[float, float]:
        low, high = resampling.interval(self.replicates)
        if low == high and self.metric in SHARES:  # all right or all wrong: that is no proof that all others would be
            return wilson(round(self.value * self.n), self.n)
        return low, high


def read_runs(trials: Sequence[Trial]) -> list[FinalRun]:
    """Finished final runs. Raises LinchainError unless all were tested on the same examples, in the same order."""
    runs, expected = [], None
    for trial in trials:
        rows: dict[str | None, list[dict[str, Any]]] = {}
        for row in trial.predictions("test"):
            rows.setdefault(row.get("task"), []).append(row)
        ids = {task: [row["id"] for row in own] for task, own in rows.items()}
        if ids != (expected := expected or ids):
            raise LinchainError(
                f"{trial.folder} was tested on other examples than {trials[0].folder}: the test data changed between "
                "these runs; delete the older ones and run the comparison again"
            )
        assert trial.seed is not None, "final runs have seeds"
        runs.append(FinalRun(trial.contestant, trial.seed, {task: columns(own) for task, own in rows.items()}))
    return runs


def take_samples(metric: str, parts: Sequence[Part], runs: Sequence[FinalRun]) -> dict[str, Sample]:
    """By contestant, those with a finite score: of one task, or the mean over several, each resampled by itself."""
    values, replicates = [], []
    for number, (task, name) in enumerate(parts):
        of_counts, n = statistic(name, [run.columns[task] for run in runs]), runs[0].n(task)
        values.append(resampling.value(of_counts, n))
        replicates.append(resampling.bootstrap(of_counts, n, seed=number))
    value, replicate = np.mean(values, axis=0), np.mean(replicates, axis=0)
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        if np.isfinite(value[place]):
            found.setdefault(run.contestant, []).append(place)
    return {
        label: Sample(
            metric,
            sum(runs[0].n(task) for task, _ in parts),
            tuple(SeedScore(runs[place].seed, float(value[place])) for place in own),
            replicate[:, own].mean(1),
            _correct(metric, parts, [runs[place] for place in own]),
        )
        for label, own in found.items()
    }


def _correct(metric: str, parts: Sequence[Part], runs: Sequence[FinalRun]) -> np.ndarray | None:
    if metric not in SHARES or len(parts) > 1 or len(runs) > 1:
        return None
    return runs[0].columns[parts[0][0]]["correct"]


def differences(samples: Mapping[str, Sample], pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """The first of each pair less the second. The pairs are one family: their p-values are adjusted for each other."""
    several = any(len(sample.seeds) > 1 for sample in samples.values())
    found = [_difference(samples[one], samples[other], other, several) for one, other in pairs]
    adjusted = holm([one.p_both for one in found])
    return [replace(one, p_holm=p, distinguishable=p < ALPHA) for one, p in zip(found, adjusted, strict=True)]


def _difference(one: Sample, other: Sample, against: str, several: bool) -> Difference:
    """Alone in its family. `several`: whether the comparison has several seeds."""
    replicates = one.replicates - other.replicates
    low, high = resampling.interval(replicates)
    if one.correct is not None and other.correct is not None:
        p, test = mcnemar(one.correct, other.correct), MCNEMAR
    else:
        p, test = bootstrap_p(replicates), BOOTSTRAP
    seed_p, both = welch(one.values, other.values), welch(one.values, other.values, _error(one, other))
    p_both = (1.0 if several else p) if both is None else max(p, both)
    value = one.value - other.value
    return Difference(against, value, low, high, p, p_both, test, seed_p, p_both, p_both < ALPHA)


def _error(one: Sample, other: Sample) -> float:
    """The standard error of a difference over examples."""
    return float((one.replicates - other.replicates).std())


def resolvable(samples: Mapping[str, Sample]) -> tuple[float | None, float | None]:
    """`resolvable` and `resolvable_with_seeds` of `linchain.lab.findings.Table`, from the contestants' samples."""
    pairs = list(itertools.combinations(samples.values(), 2))
    errors = [_error(*pair) for pair in pairs]
    with_seeds = [
        math.hypot(
            error, *(sample.seed_sd / math.sqrt(len(sample.seeds)) for sample in pair if sample.seed_sd is not None)
        )
        for error, pair in zip(errors, pairs, strict=True)
        if all(sample.seed_sd is not None for sample in pair)
    ]
    both = DETECTABLE * statistics.median(with_seeds) if with_seeds else None
    if errors and (typical := statistics.median(errors)) > 0:
        return DETECTABLE * typical, both
    shares = next((sample for sample in samples.values() if sample.metric in SHARES), None)
    return smallest_difference(shares.n) if shares else None, both
