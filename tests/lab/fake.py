"""Comparisons without folders: trials whose rows and scores are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from linchain.evaluation.scores import score

RATE = 3e-4


@dataclass(frozen=True)
class FakeTrial:
    contestant: str
    stage: str = "final"
    budget: int | None = None
    learning_rate: float = RATE
    seed: int | None = None
    rows: Sequence[dict[str, Any]] | None = None
    metric: str = "accuracy"
    error: str | None = None
    parameters: int = 1000
    seconds_per_step: float = 0.1
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.contestant) / self.stage / str(self.seed)

    @property
    def state(self) -> str:
        if self.error:
            return "failed"
        return "missing" if self.rows is None and self.stage != "cost" else "done"

    @property
    def failure(self) -> dict[str, Any] | None:
        return {"error": self.error, "diverged": True} if self.error else None

    @property
    def result(self) -> dict[str, Any]:
        found = [vars(one) for one in score(self.metric, self.rows)] if self.rows else []
        memory = {"peak_memory_bytes": 2**20 * (self.parameters + 500), "memory_before_bytes": 2**20 * 500}
        cost = {"seconds_per_step": self.seconds_per_step, **memory}
        return {
            "scores": {"validation" if self.stage == "search" else "after": found},
            "parameters": {"trainable": self.parameters, "total": 10**6},
            "seconds": 60.0,
            "resumed_from_step": None,
            "cost": cost,
        } | dict(self.extra)

    def scores(self, split: str) -> list[dict[str, Any]]:
        return self.result["scores"].get("after", [])

    def predictions(self, split: str) -> Sequence[dict[str, Any]]:
        return self.rows or []


def comparison(
    trials: Iterable[FakeTrial], reference: str = "lora", seeds: Sequence[int] = (1,), budgets: Sequence[Any] = (None,)
) -> Any:
    """A comparison of the trials' contestants, in the order that they come in."""
    trials = tuple(trials)
    labels = dict.fromkeys(trial.contestant for trial in trials)
    contestants = {label: SimpleNamespace(label=label, learning_rates=(RATE,)) for label in labels}
    plan = SimpleNamespace(
        contestants=tuple(contestants.values()),
        contestant=contestants.__getitem__,
        reference=reference,
        seeds=tuple(seeds),
        budgets=tuple(budgets),
        searches=any(trial.stage == "search" for trial in trials),
    )
    return SimpleNamespace(plan=plan, trials=trials)


def right(correct: Sequence[bool] | np.ndarray, **also: Any) -> list[dict[str, Any]]:
    """Rows of answers that are right or wrong."""
    return [{"id": index, "correct": bool(one), **also} for index, one in enumerate(correct)]


def drawn(
    generator: np.random.Generator, skill: float, hardness: np.ndarray, spread: float = 0.0, own: float = 0.3
) -> np.ndarray:
    """Whether each example is answered right by a run: `hardness` is common, `spread` of one seed, `own` of one answer."""
    noise = own * generator.standard_normal(len(hardness))
    return skill + spread * generator.standard_normal() + noise > hardness
