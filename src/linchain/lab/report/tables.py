"""The tables of scores, costs and failures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from linchain.lab.report import words
from linchain.lab.report.content import EMPTY, Cell, Column, Sheet
from linchain.lab.report.study import Study, suffix, within

if TYPE_CHECKING:
    from linchain.lab.findings import Cost, Line, Range, Table


def overview(study: Study, budget: int | None) -> Sheet | None:
    """The first table that is read: score, difference, what it means, cost."""
    table, costs = study.main_table(budget), study.costs(budget)
    if table is None:
        return None
    columns = (
        Column("Contestant"),
        Column(words.metric_name(table.metric).capitalize(), True),
        Column(f"Against {study.reference}"),
        Column(f"Difference from {study.reference}", True),
        Column("Trained parameters", True),
        Column("Memory of a step", True),
        Column("Time of a step", True),
    )
    rows, records = [], []
    for line in table.lines:
        cost = costs.get(line.contestant)
        memory, time = (cost.memory_bytes, cost.seconds_per_step) if cost else (None, None)
        rows.append(
            (
                Cell(line.contestant),
                _score(line, table.metric),
                Cell(*_told(line, table, study.reference)),
                _difference(line, table),
                Cell(words.count(cost.trainable)) if cost else EMPTY,
                Cell(words.size(memory[0])) if memory else EMPTY,
                Cell(words.seconds(time[0])) if time else EMPTY,
            )
        )
        records.append(_score_record(line, table) | _cost_record(cost))
    caption = (
        f"{_what(table)}{within(budget)}, {_means(table)}; beneath it, and beneath the difference, the 95 % interval over the "
        f"test examples{' alone' if _several(table) else ''}. Better and worse are judged over examples"
        f"{' and seeds together' if _several(table) else ''}, adjusted by Holm; level with the best is what is not "
        f"distinguishable from it.{_measured(costs.values())}"
    )
    return Sheet(f"{study.name}-overview{suffix(budget)}", caption, columns, tuple(rows), tuple(records))


def _measured(costs: Iterable[Cost]) -> str:
    """The statement that is due where time and memory were not measured alone on the machine."""
    return (
        " Time and memory are of runs that may have had neighbours." if any(c.source == "final" for c in costs) else ""
    )


def scores(study: Study, table: Table) -> Sheet:
    """Everything that is known of one test's scores."""
    columns = (
        Column("Contestant"),
        Column("Learning rate", True),
        Column("Score", True),
        Column("Single seeds", True),
        Column("Spread over seeds (SD)", True),
        Column(f"Difference from {study.reference}", True),
        Column("p over examples", True),
        Column("p over seeds", True),
        Column("p over both, adjusted", True),
        Column("In words"),
    )
    rows = []
    for line in table.lines:
        found = line.difference
        rows.append(
            (
                Cell(line.contestant),
                Cell(words.rate(line.learning_rate), words.edge(line.edge)),
                _score(line, table.metric),
                Cell(" · ".join(words.score(seed.value, table.metric).removesuffix(" %") for seed in line.seeds)),
                EMPTY if line.seed_sd is None else Cell(words.spread(line.seed_sd, table.metric, line.value)),
                _difference(line, table),
                *(
                    EMPTY if p is None else Cell(words.p_value(p))
                    for p in ((found.p, found.seed_p, found.p_holm) if found else (None,) * 3)
                ),
                Cell(*_told(line, table, study.reference)),
            )
        )
    caption = (
        f"{_what(table)}{within(table.budget)}, {_means(table)}. Intervals are 95 % over the test examples; differences are "
        f"paired by example.{_tested(table)}"
    )
    number = study.analysis.tables.index(table)
    records = tuple(_score_record(line, table) for line in table.lines)
    alone = len([one for one in study.analysis.tables if one.budget == table.budget]) == 1
    folded = "" if alone else f"Seeds, differences and tests on {study.title(table)}{within(table.budget)}"
    notes = (f"{table.resolution}.",)
    return Sheet(f"{study.name}-scores-{number}", caption, columns, tuple(rows), records, notes, folded)


def _tested(table: Table) -> str:
    """What the p-values of a table are of."""
    tests = sorted({line.difference.test for line in table.lines if line.difference})
    if not tests:
        return ""
    both = (
        "p over seeds: Welch’s test; p over both: the same with the error over examples added, but never below p over examples"
        if _several(table)
        else "p over both: with one seed each that of the examples alone"
    )
    return (
        f" p over examples: {words.listed(tests)}; {both}. The last is adjusted by Holm for all contestants tested against the "
        "reference in this table, not across tables, and is what “better” and “worse” go by (below 5 %)."
    )


def matrix(study: Study, budget: int | None) -> Sheet | None:
    """Every contestant on every test, where there are several."""
    tables = [table for table in study.analysis.tables if table.budget == budget]
    if len(tables) < 2:
        return None
    found = {(line.contestant, at): line for at, table in enumerate(tables) for line in table.lines}
    main = study.main_table(budget)
    labels = [line.contestant for line in main.lines] if main else study.contestants
    rows = tuple(
        (Cell(label), *(_score(found[label, at], table.metric) for at, table in enumerate(tables))) for label in labels
    )
    titles = [study.title(table) for table in tables]
    records: list[dict[str, Any]] = [
        {"contestant": label, "budget": budget} | {one: found[label, at].value for at, one in enumerate(titles)}
        for label in labels
    ]
    metrics = words.listed(dict.fromkeys(words.metric_name(table.metric) for table in tables))
    columns = (Column("Contestant"), *(Column(title, True) for title in titles))
    caption = (
        f"Every test{within(budget)}: {metrics}, {_over(tables[0])}; beneath each score its 95 % interval over the test "
        "examples."
    )
    return Sheet(f"{study.name}-tests{suffix(budget)}", caption, columns, rows, tuple(records))


def _what(table: Table) -> str:
    direction = "higher" if table.higher_is_better else "lower"
    return f"{words.metric_name(table.metric).capitalize()} {words.on(table.test)} ({direction} is better)"


def _means(table: Table) -> str:
    return f"{_over(table)}, {words.count(table.n)} test examples"


def _several(table: Table) -> bool:
    return any(len(line.seeds) > 1 for line in table.lines)


def _over(table: Table) -> str:
    return words.over_seeds(len(line.seeds) for line in table.lines if line.seeds)


def _score(line: Line, metric: str) -> Cell:
    return Cell(
        words.score(line.value, metric),
        words.interval(line.low, line.high, lambda value: words.score(value, metric)),
        "quiet" if line.value is None else "",
    )


def _difference(line: Line, table: Table) -> Cell:
    found = line.difference
    if found is None:
        return EMPTY

    def shown(value: float) -> str:
        return words.difference(value, table.metric, line.value)

    return Cell(shown(found.value), words.interval(found.low, found.high, shown))


def _told(line: Line, table: Table, reference: str) -> tuple[str, str, Any]:
    """Whether the contestant and the reference can be told apart, and whether it and the best one can."""
    level = "the best" if line is table.lines[0] else "level with the best" if line.level_with_best else ""
    if line.value is None:
        return "no score", "", "quiet"
    if line.contestant == reference:
        return "the reference", level, "quiet"
    found = line.difference
    if found is None or not found.distinguishable:
        return "not distinguishable", level, ""
    better = (found.value > 0) == table.higher_is_better
    return ("better", level, "good") if better else ("worse", level, "bad")


def _score_record(line: Line, table: Table) -> dict[str, Any]:
    found = asdict(line.difference) if line.difference else {}
    return {
        "contestant": line.contestant,
        "test": table.test,
        "budget": table.budget,
        "metric": table.metric,
        "examples": table.n,
        "learning_rate": line.learning_rate,
        "edge": line.edge,
        "value": line.value,
        "low": line.low,
        "high": line.high,
        "seed_sd": line.seed_sd,
        "seeds": " ".join(f"{seed.seed}:{seed.value!r}" for seed in line.seeds),
        "level_with_best": line.level_with_best,
    } | {f"difference_{name}": value for name, value in found.items()}


def _cost_record(cost: Cost | None) -> dict[str, Any]:
    ends = ("median", "low", "high")
    time, memory = (cost.seconds_per_step, cost.memory_bytes) if cost else (None, None)
    return {
        "trainable": cost.trainable if cost else None,
        "total": cost.total if cost else None,
        **{f"seconds_per_step_{end}": time[at] if time else None for at, end in enumerate(ends)},
        **{f"memory_bytes_{end}": memory[at] if memory else None for at, end in enumerate(ends)},
        "train_seconds": cost.train_seconds if cost else None,
        "measured_in": cost.source if cost else None,
    }


def costs(study: Study, budget: int | None) -> Sheet | None:
    """Parameters, time and memory, also as ratios to the reference's."""
    found = study.costs(budget)
    if not found:
        return None
    reference = found.get(study.reference)
    columns = (
        Column("Contestant"),
        Column("Trained parameters", True),
        Column("Share of all", True),
        Column("Time of a step", True),
        Column(f"Time over {study.reference}’s", True),
        Column("Memory of a step", True),
        Column(f"Memory over {study.reference}’s", True),
        Column("Training of one seed", True),
    )
    rows = tuple(
        (
            Cell(label),
            Cell(words.count(cost.trainable)),
            Cell(f"{100 * cost.trainable / cost.total:.2f} %"),
            _price(cost.seconds_per_step, words.seconds),
            _ratio(cost.seconds_per_step, reference.seconds_per_step if reference else None),
            _price(cost.memory_bytes, words.size),
            _ratio(cost.memory_bytes, reference.memory_bytes if reference else None),
            Cell(words.seconds(cost.train_seconds)) if cost.train_seconds is not None else EMPTY,
        )
        for label, cost in sorted(found.items(), key=lambda pair: study.contestants.index(pair[0]))
    )
    plan = study.comparison.plan.cost
    alone = f"{words.plural(plan.rounds, 'shuffled round')} of {words.plural(plan.steps, 'step')} alone on the machine"
    measured = "the final runs, which may have had neighbours"
    where = alone if all(cost.source == "cost" for cost in found.values()) else measured
    caption = (
        f"What training costs{within(budget)}. Time and memory: the median of {where}, beneath it the lowest and the highest. "
        "Memory is the highest in a step less what was taken before the first one (the loaded model, Python, libraries): "
        "allocated on a GPU, resident on a CPU. The training of a seed is the median of the final runs’ wall-clock times with "
        "evaluation and checkpoints; they may have had neighbours."
    )
    records = tuple({"contestant": label, "budget": budget} | _cost_record(cost) for label, cost in found.items())
    return Sheet(f"{study.name}-costs{suffix(budget)}", caption, columns, rows, records)


def _price(price: Range | None, shown: Any) -> Cell:
    if price is None:
        return EMPTY
    return Cell(shown(price[0]), words.interval(price[1], price[2], shown) if price[1] < price[2] else "")


def _ratio(price: Range | None, reference: Range | None) -> Cell:
    return Cell(f"× {price[0] / reference[0]:.2f}") if price and reference else EMPTY


def failures(study: Study) -> Sheet | None:
    """The runs that failed, with why."""
    found = study.analysis.failures
    if not found:
        return None
    columns = (
        Column("Contestant"),
        Column("Stage"),
        Column("Steps", True),
        Column("Learning rate", True),
        Column("Seed", True),
        Column("Error"),
    )
    rows = tuple(
        (
            Cell(one.contestant),
            Cell(one.stage),
            EMPTY if one.budget is None else Cell(f"{one.budget:,}"),
            Cell(words.rate(one.learning_rate)),
            EMPTY if one.seed is None else Cell(str(one.seed)),
            Cell(words.shortened(one.error, 400)),
        )
        for one in found
    )
    caption = (
        f"{words.plural(len(found), 'run')} failed. A learning rate at which training diverged counts as searched, one whose "
        "run failed otherwise does not."
    )
    return Sheet(f"{study.name}-failures", caption, columns, rows, tuple(asdict(one) for one in found))
