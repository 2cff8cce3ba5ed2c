"""A comparison with its analysis, read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from linchain.lab.choice import validation_score
from linchain.lab.report import words
from linchain.lab.verdict import main_table

if TYPE_CHECKING:
    from linchain.lab.findings import Analysis, Cost, Table
    from linchain.lab.trials import Comparison, Trial


@dataclass(frozen=True)
class Study:
    """What the parts of a report are made from. `name` is unique in a report: letters, digits, hyphens."""

    name: str
    comparison: Comparison
    analysis: Analysis

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        return self.comparison.trials

    @property
    def contestants(self) -> tuple[str, ...]:
        """The labels in the plan's order, in which the figures show them."""
        return tuple(one.label for one in self.comparison.plan.contestants)

    @property
    def reference(self) -> str:
        return self.comparison.plan.reference

    @property
    def budgets(self) -> tuple[int | None, ...]:
        return self.comparison.plan.budgets

    def runs(self, contestant: str, budget: int | None, stage: Literal["final", "search"] = "final") -> list[Trial]:
        """The finished runs of a stage: final ones with the chosen learning rate, one a seed."""
        wanted = (stage, contestant, budget, "done")
        return [trial for trial in self.trials if (trial.stage, trial.contestant, trial.budget, trial.state) == wanted]

    def main_table(self, budget: int | None) -> Table | None:
        """The scores to judge by."""
        return main_table(self.analysis.tables, budget)

    def searched_by(self, budget: int | None) -> str:
        """The metric of the validation split that the learning rates were chosen by."""
        searched = (one for label in self.contestants for one in self.runs(label, budget, "search"))
        return next((str(validation_score(trial.result)["name"]) for trial in searched), "loss")

    def title(self, table: Table) -> str:
        """The test, and the metric where the test was scored by several."""
        same = [one for one in self.analysis.tables if (one.test, one.budget) == (table.test, table.budget)]
        return table.test if len(same) == 1 else f"{table.test}, {words.metric_name(table.metric)}"

    def costs(self, budget: int | None) -> dict[str, Cost]:
        return {cost.contestant: cost for cost in self.analysis.costs if cost.budget == budget}


def within(budget: int | None) -> str:
    """A budget at the end of a sentence or heading.

    >>> within(300), within(None)
    (' after 300 steps', '')
    """
    return "" if budget is None else f" after {budget:,} steps"


def suffix(budget: int | None) -> str:
    """A budget at the end of a name.

    >>> suffix(300)
    '-300-steps'
    """
    return "" if budget is None else f"-{budget}-steps"
