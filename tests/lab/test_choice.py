import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from linchain.lab.choice import NOT_A_NUMBER, NOT_RUN, CurvePoint, chosen_rates


@dataclass(frozen=True)
class Searched:
    learning_rate: float
    value: float | None = None
    contestant: str = "lora"
    budget: int | None = None
    stage: str = "search"
    state: str = "done"
    failure: dict[str, Any] | None = None
    metric: str = "accuracy"
    extra: list[dict[str, Any]] = field(default_factory=list)

    @property
    def result(self) -> dict[str, Any]:
        return {"scores": {"validation": [{"name": self.metric, "value": self.value}, *self.extra]}}


def choose(*trials):
    return chosen_rates(trials)["lora", None]


def test_the_best_validation_score_wins_in_any_order():
    choice = choose(Searched(1e-3, 0.5), Searched(1e-4, 0.6), Searched(3e-4, 0.7))
    assert (choice.learning_rate, choice.edge, choice.metric) == (3e-4, None, "accuracy")
    assert choice.curve == (CurvePoint(1e-4, 0.6, None), CurvePoint(3e-4, 0.7, None), CurvePoint(1e-3, 0.5, None))


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_of_a_loss_the_lowest_wins(metric):
    assert choose(Searched(1e-4, 2.0, metric=metric), Searched(1e-3, 1.0, metric=metric)).learning_rate == 1e-3


def test_of_level_rates_the_lowest_wins():
    assert choose(Searched(1e-3, 0.7), Searched(3e-4, 0.7), Searched(1e-4, 0.6)).learning_rate == 3e-4


@pytest.mark.parametrize(("values", "edge"), [((3, 2, 1), "low"), ((1, 3, 2), None), ((1, 2, 3), "high")])
def test_an_edge_of_the_grid_is_flagged(values, edge):
    assert choose(*(Searched(rate, value) for rate, value in zip((1e-4, 2e-4, 3e-4), values, strict=True))).edge == edge


def test_a_single_rate_has_no_edge():
    assert choose(Searched(1e-4, 0.5)).edge is None


@pytest.mark.parametrize(("diverged", "edge"), [(True, None), (False, "high")], ids=["diverged", "accident"])
def test_a_failed_rate_has_lost_and_bounds_the_grid_where_it_diverged(diverged, edge):
    failure = {"error": "it ended", "diverged": diverged}
    choice = choose(Searched(1e-4, 0.5), Searched(3e-4, 0.6), Searched(1e-3, state="failed", failure=failure))
    assert (choice.learning_rate, choice.edge) == (3e-4, edge)
    assert choice.curve[-1] == CurvePoint(1e-3, None, "it ended")


def test_nothing_is_chosen_while_a_rate_has_to_be_run():
    choice = choose(Searched(1e-4, 0.5), Searched(3e-4, 0.6), Searched(1e-3, state="missing"))
    assert (choice.learning_rate, choice.edge) == (None, None)
    assert choice.curve == (CurvePoint(1e-4, 0.5, None), CurvePoint(3e-4, 0.6, None), CurvePoint(1e-3, None, NOT_RUN))


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_score_that_is_not_finite_has_lost(value):
    choice = choose(Searched(1e-4, value, metric="loss"), Searched(3e-4, 2.0, metric="loss"))
    assert choice.learning_rate == 3e-4
    assert choice.curve[0].error == NOT_A_NUMBER


def test_where_nothing_has_a_score_nothing_is_chosen():
    choice = choose(
        Searched(1e-4, math.nan), Searched(3e-4, state="failed", failure={"error": "diverged", "diverged": True})
    )
    assert (choice.learning_rate, choice.edge) == (None, None)


def test_over_several_tasks_the_mean_decides():
    def trial(rate, first, mean):
        return Searched(rate, first, extra=[{"name": "accuracy", "value": mean, "task": "mean"}])

    assert choose(trial(1e-4, 0.9, 0.5), trial(3e-4, 0.1, 0.6)).learning_rate == 3e-4


def test_contestants_and_budgets_are_searched_apart_and_other_stages_passed_over():
    found = chosen_rates(
        [
            Searched(1e-4, 0.5, budget=100),
            Searched(3e-4, 0.4, budget=200),
            Searched(1e-3, 0.4, contestant="bone", budget=100),
            Searched(9e-4, 1.0, stage="final", budget=100),
        ]
    )
    assert {key: choice.learning_rate for key, choice in found.items()} == {
        ("lora", 100): 1e-4,
        ("lora", 200): 3e-4,
        ("bone", 100): 1e-3,
    }
