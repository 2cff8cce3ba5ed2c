"""Which learning rate a comparison goes on with: by the validation split alone, by one rule for every contestant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from linchain.evaluation.scores import LOWER_IS_BETTER, MEAN

NOT_RUN, NOT_A_NUMBER = "not run", "the score is not a number"

Edge = Literal["low", "high"]


class SearchTrial(Protocol):
    """What is read of a `linchain.lab.trials.Trial` here."""

    @property
    def contestant(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def budget(self) -> int | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def state(self) -> str: ...
    @property
    def failure(self) -> dict[str, Any] | None: ...
    @property
    def result(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class CurvePoint:
    """A searched learning rate and its validation score, or why it has none."""

    learning_rate: float
    value: float | None
    error: str | None


@dataclass(frozen=True)
class Choice:
    """The learning rate chosen for one contestant and budget, with the curve that it was chosen from.

    `learning_rate` is None while a rate has still to be run, and where none has a score. `edge` says at which end of the
    searched grid the chosen rate lies: the best one may then lie beyond it. A rate at which training diverged counts as
    searched, one that failed by accident does not, and a grid of a single rate has no ends.
    """

    learning_rate: float | None
    edge: Edge | None
    metric: str | None
    curve: tuple[CurvePoint, ...]


def chosen_rates(trials: Iterable[SearchTrial]) -> dict[tuple[str, int | None], Choice]:
    """The choice for every (contestant, budget) that has trials of the stage "search"; others are passed over.

    The best validation score wins, the lowest rate of those that are level; what failed or is not finite has lost.
    """
    grids: dict[tuple[str, int | None], list[SearchTrial]] = defaultdict(list)
    for trial in trials:
        if trial.stage == "search":
            grids[trial.contestant, trial.budget].append(trial)
    return {key: _choose(sorted(grid, key=lambda trial: trial.learning_rate)) for key, grid in grids.items()}


def higher_is_better(metric: str) -> bool:
    return metric not in LOWER_IS_BETTER


def validation_score(result: dict[str, Any]) -> dict[str, Any]:
    """The entry of a run's validation scores to go by: the mean over tasks, or the first where there is no such mean."""
    scores: list[dict[str, Any]] = result["scores"]["validation"]
    return next((score for score in scores if score.get("task") == MEAN), scores[0])


def _choose(grid: list[SearchTrial]) -> Choice:
    """The choice from trials in the order of their rates."""
    scores = {trial.learning_rate: validation_score(trial.result) for trial in grid if trial.state == "done"}
    metric = next((score["name"] for score in scores.values()), None)
    curve = tuple(_point(trial, scores.get(trial.learning_rate)) for trial in grid)
    found = [(point.value, point.learning_rate) for point in curve if point.value is not None]
    if metric is None or not found or any(trial.state == "missing" for trial in grid):
        return Choice(None, None, metric, curve)
    sign = -1 if higher_is_better(metric) else 1
    _, rate = min(found, key=lambda point: (sign * point[0], point[1]))
    if len(found) > 1 and len({value for value, _ in found}) == 1:  # a tie says nothing of where better rates lie
        return Choice(rate, None, metric, curve)
    searched = [trial.learning_rate for trial in grid if trial.failure is None or trial.failure["diverged"]]
    return Choice(rate, _edge(rate, searched), metric, curve)


def _point(trial: SearchTrial, score: dict[str, Any] | None) -> CurvePoint:
    if score is None:
        return CurvePoint(trial.learning_rate, None, trial.failure["error"] if trial.failure else NOT_RUN)
    value = score["value"]
    if value is None or not math.isfinite(value):
        return CurvePoint(trial.learning_rate, None, NOT_A_NUMBER)
    return CurvePoint(trial.learning_rate, float(value), None)


def _edge(rate: float, searched: list[float]) -> Edge | None:
    if len(searched) < 2 or searched[0] < rate < searched[-1]:
        return None
    return "low" if rate == searched[0] else "high"
