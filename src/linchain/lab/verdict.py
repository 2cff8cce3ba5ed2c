"""What a comparison says in plain sentences: which method to use, how sure that is, and what would make it surer.

A method that does not win is said not to win. The sentences of `verdict` hold no times: they are the same whenever, and
however often interrupted, the comparison was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from linchain.evaluation.scores import MEAN, SHARES
from linchain.lab.findings import Cost, Failure, Line, Table
from linchain.lab.report import words
from linchain.lab.statistics import examples_needed, seeds_needed

if TYPE_CHECKING:
    from linchain.lab.plan import Plan

MILLION = 1_000_000


def verdict(plan: Plan, tables: Sequence[Table], costs: Sequence[Cost], failures: Sequence[Failure]) -> Iterator[str]:
    """Sentences on the largest budget's main table, most important first; on the other budgets one each."""
    found = {budget: main_table(tables, budget) for budget in plan.budgets}
    table = found.pop(plan.budgets[-1])
    if table is None:
        yield "Nothing can be said yet: no final run has a score."
        return
    best = table.lines[0]
    if len(_scored(table)) == 1:
        yield f"{best.contestant} is the only contestant with a score: {_shown(best, table)}."
    else:
        yield from _recommended(table, costs)
        yield from _against_reference(table, plan.reference)
        yield f"{table.resolution}, with 80 % power at 5 %."
        yield from _seeds(table)
        yield from _to_separate(table)
    yield from _cautions(plan, table, failures)
    for budget, other in found.items():
        if other is not None:
            first = other.lines[0]
            yield f"After {budget:,} steps {first.contestant} scored best: {_shown(first, other)}; {_level(other)}."


def measured(plan: Plan, tables: Sequence[Table], costs: Sequence[Cost]) -> Iterator[str]:
    """Which of those that are level with the best take the least time and memory here, by the medians."""
    table = main_table(tables, plan.budgets[-1])
    level = [line.contestant for line in table.lines if line.level_with_best] if table else []
    own = [cost for cost in costs if cost.budget == plan.budgets[-1] and cost.contestant in level]
    times = {cost.contestant: cost.seconds_per_step[0] for cost in own if cost.seconds_per_step}
    sizes = {cost.contestant: cost.memory_bytes[0] for cost in own if cost.memory_bytes}
    if len(level) > 1:
        group = "Of the contestants level with the best,"
        if times:
            yield f"{group} {_least(times)} takes the least time a step: {words.seconds(min(times.values()))}."
        if sizes:
            yield f"{group} {_least(sizes)} needs the least memory: {words.size(min(sizes.values()))}."
    if any(cost.source == "final" for cost in own):
        yield "Times and memory are of the final runs, which may have had neighbours on the machine."


def _least(values: Mapping[str, float]) -> str:
    return min(values, key=values.__getitem__)


def resolution(n: int, resolvable: float | None, metric: str) -> str:
    """The smallest difference that `n` examples resolve, in words.

    >>> resolution(1319, 0.038, "accuracy"), resolution(200, None, "loss")
    ('1,319 examples cannot separate methods closer than 3.8 points', '200 examples: what they can separate is not known')
    """
    if resolvable is None:
        return f"{words.plural(n, 'example')}: what they can separate is not known"
    return f"{words.plural(n, 'example')} cannot separate methods closer than {_amount(resolvable, metric)}"


def main_table(tables: Sequence[Table], budget: int | None) -> Table | None:
    """The table to judge by at a budget: the mean over tests, or the only (else the first) one."""
    own = [table for table in tables if table.budget == budget]
    return next((table for table in own if table.test == MEAN), own[0] if own else None)


def _recommended(table: Table, costs: Sequence[Cost]) -> Iterator[str]:
    """The best; or of what cannot be told apart from it, and scored no more below it than the test set resolves, the smallest.

    That has to train half as many parameters at most: for less, nobody should take what scored lower.
    """
    best, *others = _scored(table)
    level = [line for line in others if line.level_with_best]
    if not level:
        yield f"Use {best.contestant}: it scored best, {_shown(best, table)}, and {_level(table)}."
        return
    trained = {cost.contestant: cost.trainable for cost in costs if cost.budget == table.budget}
    within = table.resolvable or 0.0  # not with seeds: a method that scatters would excuse itself
    most = trained.get(best.contestant, 0) / 2
    close = [line for line in level if _behind(line, table) <= within and trained.get(line.contestant, 0) <= most]
    choice = min(close, key=lambda line: trained.get(line.contestant, 0), default=best)
    size = words.count(trained.get(choice.contestant, 0))
    if choice is best:
        yield (
            f"Use {best.contestant}: it scored best, and none that came close trains half of its {size} parameters or fewer. "
            "That it is better than those that are not distinguishable from it is not shown."
        )
    else:
        yield (
            f"Use {choice.contestant}: it cannot be told apart from the best, {best.contestant}, and of those that came "
            f"close it trains the fewest parameters ({size}). It scored {_amount(_behind(choice, table), table.metric)} worse."
        )
    yield f"{best.contestant} scored best: {_shown(best, table)}; {_level(table)}."


def _level(table: Table) -> str:
    others = _scored(table)[1:]
    level = [line.contestant for line in others if line.level_with_best]
    if not level:
        return "every other contestant is distinguishable from it"
    if len(level) == len(others) > 1:
        return "none of the others can be told apart from it"
    return f"not distinguishable from it: {words.listed(level)}"


def _against_reference(table: Table, reference: str) -> Iterator[str]:
    pairs = [(line.contestant, line.difference) for line in _scored(table) if line.difference]
    if not pairs:
        return
    better: list[str] = []
    worse: list[str] = []
    same: list[str] = []
    for label, found in pairs:
        shown = f"{label} ({words.difference(found.value, table.metric)})"
        if not found.distinguishable:
            same.append(label)
        else:
            (better if (found.value > 0) == table.higher_is_better else worse).append(shown)
    if better:
        yield f"Better than the reference {reference}, in {words.unit(table.metric)}: {words.listed(better)}."
    else:
        yield f"Nothing is shown to be better than the reference {reference}."
    if worse:
        yield f"Worse than {reference}, in {words.unit(table.metric)}: {words.listed(worse)}."
    if same:
        yield f"Not distinguishable from {reference}: {words.listed(same)}."


def _seeds(table: Table) -> Iterator[str]:
    spreads = [line.seed_sd for line in table.lines if line.seed_sd is not None]
    if not spreads:
        yield "With one seed each these are differences between runs: what another seed would have given is not known."
        return
    low, high = words.spread(min(spreads), table.metric), _amount(max(spreads), table.metric)
    closer = _amount(table.resolvable_with_seeds or 0.0, table.metric)
    seeds = max(len(line.seeds) for line in table.lines)
    yield (
        f"Between seeds scores vary by {low} to {high} (standard deviations); {words.plural(seeds, 'seed')} each on these "
        f"examples cannot separate methods closer than {closer}."
    )


def _to_separate(table: Table) -> Iterator[str]:
    """What it would take to tell the best from the closest that is level with it, if they differ by what was measured."""
    best, *others = _scored(table)
    second = next((line for line in others if line.level_with_best), None)
    if second is None:
        return
    apart = _behind(second, table)
    pair = f"{best.contestant} and {second.contestant}"
    if apart == 0 or table.resolvable is None:
        yield f"{pair} scored the same: nothing says how many examples would separate them."
        return
    needs = []
    if apart < table.resolvable:
        examples = examples_needed(table.n, table.resolvable, apart)
        needs.append(
            f"about {_rounded(examples)} test examples" if examples < MILLION else "over a million test examples"
        )
    sd = max(best.seed_sd or 0.0, second.seed_sd or 0.0)
    if sd and (seeds := seeds_needed(sd, apart)) > min(len(best.seeds), len(second.seeds)):
        needs.append(f"about {_rounded(seeds)} seeds" if seeds < MILLION else "over a million seeds")
    if needs:
        yield (
            f"To separate {pair}, if they are really {_amount(apart, table.metric)} apart as measured, takes "
            f"{' and '.join(needs)}."
        )


def _cautions(plan: Plan, table: Table, failures: Sequence[Failure]) -> Iterator[str]:
    edges = [line.contestant for line in table.lines if line.edge]
    if edges:
        yield f"At an edge of the learning rates searched, so that a wider grid may do better: {words.listed(edges)}."
    short = [f"{line.contestant} ({len(line.seeds)})" for line in table.lines if len(line.seeds) < len(plan.seeds)]
    if short:
        yield f"Not all of the {words.plural(len(plan.seeds), 'seed')} have a score: {words.listed(short)}."
    if failures:
        yield f"{words.plural(len(failures), 'run')} failed; they are listed with their errors."


def _scored(table: Table) -> list[Line]:
    return [line for line in table.lines if line.value is not None]


def _behind(line: Line, table: Table) -> float:
    """How far a line is behind the best, not negative."""
    assert line.value is not None
    assert table.lines[0].value is not None
    return abs(line.value - table.lines[0].value)


def _shown(line: Line, table: Table) -> str:
    within = words.interval(line.low, line.high, lambda value: words.score(value, table.metric))
    return f"{words.score(line.value, table.metric)} {words.metric_name(table.metric)} (95 % interval {within})"


def _amount(value: float, metric: str) -> str:
    """A distance between scores with its unit."""
    shown = words.spread(value, metric)
    return f"{shown} points" if metric in SHARES else f"{shown} in {words.metric_name(metric)}"


def _rounded(number: int) -> str:
    """Two significant digits: it is a guess from a measured difference."""
    return f"{int(float(f'{number:.1e}')):,}"
