"""What a comparison says in plain sentences: which method to use, how sure that is, and what would make it surer.

A method that does not win is said not to win. The sentences of `verdict` hold no times: they are the same whenever, and
however often interrupted, the comparison was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from linchain.evaluation.scores import MEAN, SHARES, Z
from linchain.lab.findings import Cost, Failure, Line, Range, Table
from linchain.lab.report import words
from linchain.lab.statistics import DETECTABLE, examples_needed, seeds_needed

if TYPE_CHECKING:
    from linchain.lab.plan import Plan

MILLION = 1_000_000
NAMED = 3  # at most so many contestants in a sentence on something else


def verdict(plan: Plan, tables: Sequence[Table], costs: Sequence[Cost], failures: Sequence[Failure]) -> Iterator[str]:
    """Sentences on the largest budget's main table, most important first; on the other budgets one each."""
    found = {budget: main_table(tables, budget) for budget in plan.budgets}
    table = found.pop(plan.budgets[-1])
    if table is None:
        yield "Nothing can be said yet: no final run has a score."
        return
    best, *others = _scored(table)
    if not others:
        yield f"{best.contestant} is the only contestant with a score: {_shown(best, table)}."
        yield from _nothing_learned(table)
        yield from _edges(table)
    elif others[-1].value == best.value:
        yield f"Nothing can be said: all {len(others) + 1} contestants scored the same, {_shown(best, table)}."
    else:
        yield from _recommended(table, plan.reference, costs)
        yield from _nothing_learned(table)
        yield from _edges(table)
        yield from _against_reference(table, plan.reference)
        yield (
            f"The best of {len(_scored(table))} was picked by the test that it is scored by, so its score is somewhat "
            "flattering."
        )
        yield f"{table.resolution}."
        yield from _seeds(table)
        yield from _to_separate(table)
    yield from _cautions(plan, table, failures)
    for budget, other in found.items():
        if other is not None:
            first = other.lines[0]
            yield f"After {budget:,} steps {first.contestant} scored best: {_shown(first, other)}{_proven(other)}."


def measured(plan: Plan, tables: Sequence[Table], costs: Sequence[Cost]) -> Iterator[str]:
    """Which of those that are level with the best takes the least time, and the least memory, in each of its runs."""
    table = main_table(tables, plan.budgets[-1])
    level = [line.contestant for line in table.lines if line.level_with_best] if table else []
    own = [cost for cost in costs if cost.budget == plan.budgets[-1] and cost.contestant in level]
    times = {cost.contestant: cost.seconds_per_step for cost in own if cost.seconds_per_step}
    sizes = {cost.contestant: cost.memory_bytes for cost in own if cost.memory_bytes}
    if len(level) > 1 and all(cost.runs > 1 for cost in own):  # one run does not tell how far the next one would be off
        group = "Of the contestants level with the best,"
        if fast := _least(times):
            yield f"{group} {fast} takes the least time a step: {words.seconds(times[fast][0])}."
        if small := _least(sizes):
            yield f"{group} {small} needs the least memory: {words.size(sizes[small][0])}."
    if any(cost.source == "final" for cost in own):
        yield "Times and memory are of the final runs, which may have had neighbours on the machine."


def _least(prices: Mapping[str, Range]) -> str | None:
    """Whose highest price is below everybody else's lowest: the rest is noise."""
    if len(prices) < 2:
        return None
    (_, _, most), cheapest = min((price, label) for label, price in prices.items())
    return cheapest if all(most < low for label, (_, low, _) in prices.items() if label != cheapest) else None


def resolution(n: int, resolvable: float | None, metric: str) -> str:
    """The difference that `n` examples resolve, in words, with what is meant: smaller ones can be found, by luck.

    >>> print(resolution(1319, 0.038, "accuracy"))  # doctest: +ELLIPSIS
    1,319 examples cannot reliably separate methods closer than 3.8 points: a true difference of that size is found in ...
    """
    examples = words.plural(n, "example")
    if resolvable is None:
        return f"{examples}: what they can separate is not known"
    return (
        f"{examples} cannot reliably separate methods closer than {_amount(resolvable, metric)}: a true difference of that "
        "size is found in four of five such comparisons (over the examples alone, for the median pair of methods, and by "
        "itself, before Holm’s correction)"
    )


def main_table(tables: Sequence[Table], budget: int | None) -> Table | None:
    """The table to judge by at a budget: the mean over tests, or the only (else the first) one."""
    own = [table for table in tables if table.budget == budget]
    return next((table for table in own if table.test == MEAN), own[0] if own else None)


def _recommended(table: Table, reference: str, costs: Sequence[Cost]) -> Iterator[str]:
    """The best of what is shown to be better than the reference, else the reference; and how sure that is."""
    best, *_ = _scored(table)
    better = [line for line in _scored(table) if _improves(line, table)]
    if best in better or best.contestant == reference or not any(line.difference for line in table.lines):
        yield f"Use {best.contestant}: it scored best, {_shown(best, table)}{_proven(table)}."
    else:
        if better:
            yield (
                f"Use {better[0].contestant}: it is shown to be better than the reference {reference}, and scored "
                f"{_shown(better[0], table)}."
            )
        else:
            yield f"Stay with {reference}, the reference: nothing is shown to be better."
        yield f"{best.contestant} scored best, {_shown(best, table)}{_proven(table)}."
    yield from _level(table, costs)


def _improves(line: Line, table: Table) -> bool:
    found = line.difference
    return found is not None and found.distinguishable and (found.value > 0) == table.higher_is_better


def _level(table: Table, costs: Sequence[Cost]) -> Iterator[str]:
    """What is not told apart from the best; of that, what trains half as many parameters at most and came close.

    It is not recommended: the fewer the examples, the more would be indistinguishable, however far behind.
    """
    best, *others = _scored(table)
    level = [line for line in others if line.level_with_best]
    if NAMED < len(level) < len(others):
        yield f"Not distinguishable from {best.contestant}: {words.first([line.contestant for line in level])}."
    trained = {cost.contestant: cost.trainable for cost in costs if cost.budget == table.budget}
    most, close = trained.get(best.contestant, 0) / 2, table.resolvable_with_seeds or table.resolvable or 0.0
    small = [line for line in level if 0 < trained.get(line.contestant, 0) <= most and _behind(line, table) <= close]
    for line in small[:1]:
        behind = _behind(line, table)
        scored = f"scored {_amount(behind, table.metric)} worse" if behind else "scored the same"
        yield (
            f"{line.contestant} trains {words.count(trained[line.contestant])} parameters instead of "
            f"{words.count(trained[best.contestant])} and {scored}: it is not shown to be worse, nor to be as good."
        )


def _proven(table: Table) -> str:
    """What is known of the best beside the others, as the end of a sentence."""
    others = _scored(table)[1:]
    level = [line.contestant for line in others if line.level_with_best]
    if not others:
        return ""
    if not level:
        return ", and every other contestant is distinguishable from it"
    if len(level) == len(others) > 1:
        return ", but is not shown to be better than any other"
    named = words.listed(level) if len(level) <= NAMED else f"{len(level)} of the {len(others)} others"
    return f", but is not shown to be better than {named}"


def _against_reference(table: Table, reference: str) -> Iterator[str]:
    pairs = [(line, line.difference) for line in _scored(table) if line.difference]
    if not pairs:
        return
    better: list[str] = []
    worse: list[str] = []
    same: list[str] = []
    for line, found in pairs:
        shown = f"{line.contestant} ({words.difference(found.value, table.metric, line.value)})"
        if not found.distinguishable:
            same.append(line.contestant)
        else:
            (better if _improves(line, table) else worse).append(shown)
    if better:
        yield f"Better than the reference {reference}, in {words.unit(table.metric)}: {words.first(better)}."
    if worse:
        yield f"Worse than {reference}, in {words.unit(table.metric)}: {words.first(worse)}."
    if same:
        yield f"Not distinguishable from {reference}: {words.first(same)}."


def _seeds(table: Table) -> Iterator[str]:
    spreads = [line.seed_sd for line in table.lines if line.seed_sd is not None]
    if not spreads:
        yield "With one seed each these are differences between runs: what another seed would have given is not known."
        return
    low, high = words.spread(min(spreads), table.metric), _amount(max(spreads), table.metric)
    seeds = words.plural(max(len(line.seeds) for line in table.lines), "seed")
    needed = (
        f": with that, {seeds} each on these examples need a difference of at least "
        f"{_amount(table.resolvable_with_seeds, table.metric)} to find it as often"
        if table.resolvable_with_seeds is not None
        else ""
    )
    yield f"Between seeds scores vary by {low} to {high} (standard deviations){needed}."


def _to_separate(table: Table) -> Iterator[str]:
    """What it would take to tell the best from the closest that is level with it, if they differ by what was measured."""
    best, *others = _scored(table)
    second = next((line for line in others if line.level_with_best), None)
    if second is None or second.from_best is None:
        return
    apart = _behind(second, table)
    pair = f"{best.contestant} and {second.contestant}"
    if apart == 0:
        yield f"{pair} scored the same: nothing says how many examples would separate them."
        return
    needs = []
    resolvable = DETECTABLE * (second.from_best.high - second.from_best.low) / (2 * Z)  # of this pair, over examples
    if apart < resolvable:
        needs.append(f"{_at_least(examples_needed(table.n, resolvable, apart))} test examples")
    sd = max(best.seed_sd or 0.0, second.seed_sd or 0.0)
    if sd and (seeds := seeds_needed(sd, apart)) > min(len(best.seeds), len(second.seeds)):
        needs.append(f"{_at_least(seeds)} seeds")
    if needs:
        yield (
            f"To separate {pair}, if they are really {_amount(apart, table.metric)} apart as measured, takes at least "
            f"{' and '.join(needs)}."
        )


def _nothing_learned(table: Table) -> Iterator[str]:
    """That answers do not come of the examples: scores of such runs are close together, and say nothing of the methods."""
    best = table.lines[0]
    if table.most_frequent is not None and best.low is not None and best.low <= table.most_frequent:
        yield (
            "Nobody is shown to be better than the same answer to every example, which scores "
            f"{words.score(table.most_frequent, table.metric)}."
        )
    if table.one_answer:
        yield (
            f"A final run gave the same answer to every example: {words.first(table.one_answer)}. Such a run has learned "
            "nothing that this test shows."
        )


def _edges(table: Table) -> Iterator[str]:
    edges = [line.contestant for line in table.lines if line.edge]
    if edges:
        yield f"At an edge of the learning rates searched, so that a wider grid may do better: {words.first(edges)}."


def _cautions(plan: Plan, table: Table, failures: Sequence[Failure]) -> Iterator[str]:
    short = [f"{line.contestant} ({len(line.seeds)})" for line in table.lines if len(line.seeds) < len(plan.seeds)]
    if short:
        yield f"Not all of the {words.plural(len(plan.seeds), 'seed')} have a score: {words.first(short)}."
    if failures:
        parts = sorted({f"{failure.contestant}: {failure.stage}" for failure in failures})
        yield f"{words.plural(len(failures), 'run')} failed ({words.first(parts)}); the errors are listed."


def _scored(table: Table) -> list[Line]:
    return [line for line in table.lines if line.value is not None]


def _behind(line: Line, table: Table) -> float:
    """How far a line is behind the best, not negative."""
    assert line.value is not None
    assert table.lines[0].value is not None
    return abs(line.value - table.lines[0].value)


def _shown(line: Line, table: Table) -> str:
    within = words.interval(line.low, line.high, lambda value: words.score(value, table.metric))
    what = f"{words.metric_name(table.metric)} {words.on(table.test)}"
    return f"{words.score(line.value, table.metric)} {what} (95 % interval {within})"


def _amount(value: float, metric: str) -> str:
    """A distance between scores with its unit."""
    shown = words.spread(value, metric)
    if value > 0 and not shown.strip("0."):  # as many digits as it takes
        shown = f"{value * (100 if metric in SHARES else 1):.1g}"
    return f"{shown} points" if metric in SHARES else f"{shown} in {words.metric_name(metric)}"


def _at_least(number: int) -> str:
    """Two significant digits: it is a guess from a measured difference."""
    return f"{int(float(f'{number:.1e}')):,}" if number < MILLION else "a million"
