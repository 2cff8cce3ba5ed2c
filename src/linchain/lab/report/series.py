"""What figures are drawn from: courses over training steps, averaged over seeds, and spectra averaged over modules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from linchain.lab.trials import Trial

RANKS = ("entropy_rank", "stable_rank", "participation_ratio")


@dataclass(frozen=True)
class Course:
    """A quantity over training steps: mean, lowest and highest over `seeds` runs, each of shape (steps,)."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def course(runs: Iterable[dict[int, float]]) -> Course | None:
    """Over runs of step -> value; steps that some run lacks, or where a value is not finite, are left out."""
    finite = [{step: value for step, value in run.items() if math.isfinite(value)} for run in runs]
    if not finite:
        return None
    steps = sorted(set.intersection(*(set(run) for run in finite)))
    if not steps:
        return None
    values = np.array([[run[step] for step in steps] for run in finite])
    return Course(np.array(steps), values.mean(0), values.min(0), values.max(0), len(finite))


def losses(trials: Sequence[Trial], key: str) -> Course | None:
    """`key`: "loss", the training loss as it was logged, or "eval_loss", the validation loss."""
    return course({row["step"]: row[key] for row in trial.metrics if row.get(key) is not None} for trial in trials)


def ranks(trials: Sequence[Trial], measure: str) -> Course | None:
    """A rank measure of ΔW, the mean over modules; steps at which ΔW is still zero have no rank and are left out."""
    return course(
        _by_step((row["step"], row.get(measure)) for row in trial.diagnostics if row.get("norm") != 0)
        for trial in trials
        if trial.diagnostics
    )


def gradients(trials: Sequence[Trial]) -> dict[str, Course]:
    """Factor -> the norm of its gradient, the mean over modules."""
    found = {
        name: course(
            _by_step((row["step"], _part(row, "gradients").get(name)) for row in trial.diagnostics)
            for trial in trials
            if trial.diagnostics
        )
        for name in _names(trials, "gradients")
    }
    return {name: one for name, one in found.items() if one is not None}


def factor_spectra(trials: Sequence[Trial], last: bool) -> dict[str, Course]:
    """Factor -> σ_i/σ_1 over i: the mean over modules for each seed, at the last measured step or at the first.

    Modules whose factors are of other sizes count up to the size that all have.
    """
    runs: dict[str, list[dict[int, float]]] = defaultdict(list)
    for trial in trials:
        step = (max if last else min)((row["step"] for row in trial.diagnostics), default=None)
        spectra: dict[str, list[list[float]]] = defaultdict(list)
        for row in trial.diagnostics:
            if row["step"] == step:
                for name, values in _part(row, "factors").items():
                    if values and None not in values and values[0] > 0:  # None: not a number
                        spectra[name].append([value / values[0] for value in values])
        for name, found in spectra.items():
            runs[name].append(dict(enumerate(np.mean([one[: min(map(len, found))] for one in found], axis=0), 1)))
    courses = {name: course(runs[name]) for name in in_order(runs)}
    return {name: one for name, one in courses.items() if one is not None}


def in_order(factors: Iterable[str]) -> list[str]:
    """Factors as x meets them, products last.

    >>> in_order(["AW", "B", "W2", "A", "W1"])
    ['A', 'W1', 'W2', 'B', 'AW']
    """
    return sorted(factors, key=lambda name: (len(name) > 1 and not name[1:].isdigit(), name == "B", name))


def _by_step(pairs: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    gathered: dict[int, list[float]] = defaultdict(list)
    for step, value in pairs:
        if value is not None:
            gathered[step].append(value)
    return {step: sum(values) / len(values) for step, values in gathered.items()}


def _names(trials: Sequence[Trial], part: str) -> list[str]:
    return in_order({name for trial in trials for row in trial.diagnostics for name in _part(row, part)})


def _part(row: dict[str, Any], part: str) -> dict[str, Any]:
    return row.get(part) or {}
