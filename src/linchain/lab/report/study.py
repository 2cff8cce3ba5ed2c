"""A comparison with its analysis, read once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from linchain.lab.choice import Choice, chosen_rates
from linchain.lab.report import words
from linchain.lab.report.series import Update, read_update
from linchain.lab.verdict import main_table

if TYPE_CHECKING:
    from linchain.lab.findings import Analysis, Cost, Table
    from linchain.lab.trials import Comparison, Stage, Trial


@dataclass(frozen=True)
class Study:
    """What the parts of a report are made from. `name` is unique in a report: letters, digits, hyphens."""

    name: str
    comparison: Comparison

    @property
    def analysis(self) -> Analysis:
        return self.comparison.analysis

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.comparison.environment

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

    def runs(self, contestant: str, budget: int | None, stage: Stage = "final") -> list[Trial]:
        """The finished runs of a stage: final ones with the chosen learning rate, one a seed."""
        return self._done.get((stage, contestant, budget), [])

    @cached_property
    def _done(self) -> dict[tuple[Stage, str, int | None], list[Trial]]:
        found = defaultdict(list)
        for trial in self.trials:
            if trial.state == "done":
                found[trial.stage, trial.contestant, trial.budget].append(trial)
        return dict(found)

    def updates(self, contestant: str, budget: int | None) -> list[Update]:
        """What was measured of the update in each final run; those in which nothing was are passed over."""
        read = (self._updates[str(trial.folder)] for trial in self.runs(contestant, budget))
        return [one for one in read if one is not None]

    @cached_property
    def _updates(self) -> dict[str, Update | None]:
        finals = (trial for (stage, _, _), runs in self._done.items() if stage == "final" for trial in runs)
        return {str(trial.folder): read_update(trial.diagnostics) for trial in finals}

    def searches(self, budget: int | None) -> dict[str, Choice]:
        """The search of each contestant that has several rates, in the plan's order."""
        found = {label: self._choices.get((label, budget)) for label in self.contestants}
        return {label: one for label, one in found.items() if one and one.metric is not None and len(one.curve) > 1}

    def searched_by(self, budget: int | None) -> str:
        """The metric of the validation split that the learning rates were chosen by."""
        return next((str(one.metric) for one in self.searches(budget).values()), "loss")

    @cached_property
    def _choices(self) -> dict[tuple[str, int | None], Choice]:
        return chosen_rates(self.trials)

    def main_table(self, budget: int | None) -> Table | None:
        """The scores to judge by."""
        return main_table(self.analysis.tables, budget)

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
