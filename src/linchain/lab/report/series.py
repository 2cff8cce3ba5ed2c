"""What figures are drawn from: courses over training steps, averaged over seeds, and spectra averaged over modules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from linchain.lab.trials import Trial

RANKS = ("entropy_rank", "stable_rank", "participation_ratio")
ROUNDING = 1e-9  # of the largest norm of an update: below it, it is what a start taken out of the base leaves
ByStep = dict[int, float]


@dataclass(frozen=True)
class Course:
    """A quantity over training: `steps` (steps,) and `values` (runs, steps)."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.values.mean(0)

    @property
    def low(self) -> np.ndarray:
        return self.values.min(0)

    @property
    def high(self) -> np.ndarray:
        return self.values.max(0)

    @property
    def seeds(self) -> int:
        return len(self.values)

    def smoothed(self, width: int) -> Course:
        """Each value averaged with the `width` - 1 before it; it begins where there are so many."""
        windows = np.lib.stride_tricks.sliding_window_view(self.values, width, axis=1)
        return Course(self.steps[width - 1 :], windows.mean(-1))

    def reaches(self, goal: float) -> int | None:
        """The first step at which the mean is at most `goal`."""
        steps = self.steps[self.mean <= goal]
        return int(steps[0]) if len(steps) else None


def course(runs: Iterable[Mapping[int, float]]) -> Course | None:
    """Over runs of step -> value; steps that some run lacks, or where a value is not finite, are left out."""
    finite = [{step: value for step, value in run.items() if math.isfinite(value)} for run in runs]
    if not finite:
        return None
    steps = sorted(set.intersection(*(set(run) for run in finite)))
    if not steps:
        return None
    return Course(np.array(steps), np.array([[run[step] for step in steps] for run in finite]))


def losses(trials: Sequence[Trial], key: str) -> Course | None:
    """`key`: "loss", the training loss as it was logged, or "eval_loss", the validation loss."""
    return course({row["step"]: row[key] for row in trial.metrics if row.get(key) is not None} for trial in trials)


@dataclass(frozen=True)
class Update:
    """What one run's diagnostics.jsonl says of ΔW, averaged over modules: the file itself may have 100,000 spectra.

    Attributes:
        ranks: by measure of RANKS and step; steps at which ΔW is still zero have no rank and are left out.
        gradients: by factor and step, the norm.
        first: σ_i/σ_1 over i by factor, at the first measured step. Modules whose factors are of other sizes count up to
            the size that all have.
        last: the same at the last one.
        sizes: the modules' ranks r.
        folding_error: the largest one.
    """

    ranks: dict[str, ByStep]
    gradients: dict[str, ByStep]
    first: dict[str, ByStep]
    last: dict[str, ByStep]
    sizes: frozenset[int]
    folding_error: float | None


def read_update(rows: Sequence[Mapping[str, Any]]) -> Update | None:
    """None where nothing was measured."""
    if not rows:
        return None
    steps = [row["step"] for row in rows]
    factors = {name for row in rows for name in row.get("gradients") or {}}
    norms = [row.get("norm") for row in rows]  # None: not a number
    largest = max((norm for norm in norms if norm is not None), default=0.0)
    moved = [
        row for row, norm in zip(rows, norms, strict=True) if (largest if norm is None else norm) > ROUNDING * largest
    ]
    return Update(
        ranks={measure: _by_step((row["step"], row.get(measure)) for row in moved) for measure in RANKS},
        gradients={
            name: _by_step((row["step"], (row.get("gradients") or {}).get(name)) for row in rows) for name in factors
        },
        first=_spectra(row for row in rows if row["step"] == min(steps)),
        last=_spectra(row for row in rows if row["step"] == max(steps)),
        sizes=frozenset(row["rank"] for row in rows if row.get("rank") is not None),
        folding_error=max((row["folding_error"] for row in rows if row.get("folding_error") is not None), default=None),
    )


def _by_step(pairs: Iterable[tuple[int, float | None]]) -> ByStep:
    gathered: dict[int, list[float]] = defaultdict(list)
    for step, value in pairs:
        if value is not None:
            gathered[step].append(value)
    return {step: sum(values) / len(values) for step, values in gathered.items()}


def _spectra(rows: Iterable[Mapping[str, Any]]) -> dict[str, ByStep]:
    spectra: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        for name, values in (row.get("factors") or {}).items():
            if values and None not in values and values[0] > 0:  # None: not a number
                spectra[name].append([value / values[0] for value in values])
    return {
        name: dict(enumerate(np.mean([one[: min(map(len, found))] for one in found], axis=0).tolist(), 1))
        for name, found in spectra.items()
    }


def ranks(updates: Sequence[Update], measure: str) -> Course | None:
    """A rank measure of ΔW over the runs."""
    return course(one.ranks[measure] for one in updates)


def gradients(updates: Sequence[Update]) -> dict[str, Course]:
    """Factor -> the norm of its gradient over the runs."""
    return _by_factor([one.gradients for one in updates])


def factor_spectra(updates: Sequence[Update], last: bool) -> dict[str, Course]:
    """Factor -> σ_i/σ_1 over i, over the runs, at the last measured step or at the first."""
    return _by_factor([one.last if last else one.first for one in updates])


def _by_factor(runs: Sequence[Mapping[str, ByStep]]) -> dict[str, Course]:
    found = {
        name: course(run[name] for run in runs if name in run)
        for name in in_order({name for run in runs for name in run})
    }
    return {name: one for name, one in found.items() if one is not None}


def in_order(factors: Iterable[str]) -> list[str]:
    """Factors as x meets them, products last.

    >>> in_order(["AW", "B", "W2", "A", "W1"])
    ['A', 'W1', 'W2', 'B', 'AW']
    """
    return sorted(factors, key=lambda name: (len(name) > 1 and not name[1:].isdigit(), name == "B", name))
