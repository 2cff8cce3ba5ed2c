"""The papers' published figures beside ours, and what was done otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from linchain import methods, tasks
from linchain.evaluation.scores import MEAN
from linchain.lab.report import words
from linchain.lab.report.content import EMPTY, Cell, Column, Sheet
from linchain.lab.report.study import Study
from linchain.tasks import protocols
from linchain.tasks.departures import departures
from linchain.tasks.published import COMMONSENSE, COSTS, TABLES, Published

if TYPE_CHECKING:
    from linchain.lab.findings import Cost, Table
    from linchain.lab.plan import Contestant

Options = Mapping[str, object]


def published(study: Study) -> Iterator[Sheet]:
    """For every table of the papers that has figures for what was tested here, those figures and ours; largest budget."""
    tested: dict[str, Table] = {}
    for table in study.analysis.tables:
        if table.budget == study.budgets[-1]:
            tested.setdefault(table.test, table)  # of a task's metrics the first is its own
    for number, paper in enumerate(TABLES):
        if common := common_tests(paper.values, tested):
            yield _beside(study, paper, {name: tested[name] for name in common}, number)


def common_tests(theirs: Collection[str], ours: Collection[str]) -> list[str]:
    """The tests that both have figures for; the mean only where it is over the same tasks.

    >>> common_tests(["gsm8k", "mean"], ["aqua", "gsm8k", "mean"])
    ['gsm8k']
    """
    same = set(theirs) - {MEAN} == set(ours) - {MEAN}
    return [name for name in theirs if name in ours and (same or name != MEAN)]


def _beside(study: Study, paper: Published, tested: Mapping[str, Table], number: int) -> Sheet:
    rows, records = [], []
    for name, table in tested.items():
        for method, value in paper.values[name].items():
            for label, otherwise in _matching(study, paper, method) or [("", "")]:
                line = next((one for one in table.lines if one.contestant == label), None)
                ours = None if line is None or line.value is None else line
                rows.append(
                    (
                        Cell(_title(name)),
                        Cell(method),
                        Cell(f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"),
                        Cell(label, otherwise) if label else Cell("not compared", tone="quiet"),
                        Cell(_percent(ours.value), f"{_percent(ours.low)} to {_percent(ours.high)}") if ours else EMPTY,
                    )
                )
                records.append(
                    {"source": paper.source, "task": name, "method": method, "published": value, "contestant": label}
                    | {key: getattr(ours, key) for key in ("value", "low", "high") if ours}
                    | {"otherwise": otherwise}
                )
    columns = (
        Column("Test"),
        Column("Method there"),
        Column("Published", True),
        Column("Contestant here"),
        Column("Here", True),
    )
    caption = (
        f"{paper.source} (arXiv {paper.arxiv}, {paper.model}), in percent as the paper prints them, beside ours times 100 with "
        "the 95 % interval over test examples. The figures are of other experiments: what differs is listed beneath."
    )
    return Sheet(
        f"{study.name}-published-{number + 1}",
        caption,
        columns,
        tuple(rows),
        tuple(records),
        _notes(study, paper, tested),
    )


def _notes(study: Study, paper: Published, tested: Mapping[str, Table]) -> tuple[str, ...]:
    """The paper's remarks, the contamination that its training data bring, and what is otherwise here."""
    plan = study.comparison.plan
    sizes = {name: table.n for name, table in tested.items() if name != MEAN}
    remarks = [paper.remarks[name] for name in ("", *tested) if name in paper.remarks]
    there = protocols.get(paper.protocol).paper
    trained = set(there.train.values()) if there else set[str]()
    contaminated = [
        f"{_title(name)} in the paper: {text}"
        for name in sizes
        for train, text in tasks.get(name).contamination.items()
        if train in trained
    ]
    options = [one.options for one in plan.contestants]
    otherwise = departures(plan.run, paper.protocol, plan.searches, sizes, study.budgets[-1], options)
    return (*remarks, *contaminated, *(f"{one[0].upper()}{one[1:]}." for one in otherwise))


def _matching(study: Study, paper: Published, method: str) -> list[tuple[str, str]]:
    """The contestants that are a paper's method, each with the options in which it is not quite."""
    if method not in paper.methods:
        return []
    name, options = paper.methods[method]
    widths = options.get("chain_widths")
    return [
        (one.label, _otherwise(one, options))
        for one in study.comparison.plan.contestants
        if one.method == name and one.options.get("chain_widths") == widths
    ]


def _otherwise(contestant: Contestant, theirs: Options) -> str:
    """What the contestant has otherwise than the paper, in words; the targets are a choice of the whole comparison."""
    defaults: dict[str, Any] = {one.name: one.default for one in methods.get(contestant.method).described_options()}
    ours = defaults | contestant.options
    changed = [
        f"{name} {words.value(ours.get(name))}, there {words.value(value)}"
        for name, value in theirs.items()
        if ours.get(name) != value
    ]
    added = [
        f"{name} {words.value(value)}"
        for name, value in contestant.options.items()
        if name not in theirs and name != "target_modules" and value != defaults.get(name)
    ]
    return "; ".join(changed + added)


def costs(study: Study) -> Sheet | None:
    """LinChain's Table 4, and the same ratios here."""
    pairs = {method: _matching(study, COMMONSENSE, method) for method in COSTS}
    found = study.costs(study.budgets[-1])
    lora = next((found[label] for label, _ in pairs["LoRA"] if label in found), None)
    if lora is None or not any(pairs[method] for method in COSTS if method != "LoRA"):
        return None
    rows, records = [], []
    for method, paid in COSTS.items():
        base = COSTS["LoRA"]
        for label, otherwise in pairs[method] or [("", "")]:
            here = found.get(label)
            ratios = _ratios(here, lora) if here else dict.fromkeys(("parameters", "memory", "time"))
            rows.append(
                (
                    Cell(method),
                    Cell(f"{paid.parameters:.2f} M", f"× {paid.parameters / base.parameters:.3f}"),
                    Cell(f"{paid.memory:.2f} GB", f"× {paid.memory / base.memory:.3f}"),
                    Cell(f"{paid.hours:.2f} h", f"× {paid.hours / base.hours:.3f}"),
                    Cell(label, otherwise) if label else Cell("not compared", tone="quiet"),
                    *(Cell(f"× {ratio:.3f}") if ratio is not None else EMPTY for ratio in ratios.values()),
                )
            )
            records.append(
                {"method": method, "parameters_m": paid.parameters, "memory_gb": paid.memory, "hours": paid.hours}
                | {"contestant": label}
                | {f"{name}_over_lora_here": ratio for name, ratio in ratios.items()}
            )
    columns = (
        Column("Method there"),
        Column("Parameters there", True),
        Column("Memory there", True),
        Column("An epoch there", True),
        Column("Contestant here"),
        Column("Parameters over LoRA’s here", True),
        Column("Memory over LoRA’s here", True),
        Column("Time over LoRA’s here", True),
    )
    caption = (
        "LinChain, Table 4 (LLaMA-3-8B-Instruct on Commonsense170K; one measurement each), with ratios to LoRA, beside the "
        "same ratios here, of the medians. Another model and another machine: only the ratios can be compared, and our memory "
        "leaves out the loaded model."
    )
    return Sheet(f"{study.name}-published-costs", caption, columns, tuple(rows), tuple(records))


def _ratios(here: Cost, lora: Cost) -> dict[str, float | None]:
    prices = {
        "memory": (here.memory_bytes, lora.memory_bytes),
        "time": (here.seconds_per_step, lora.seconds_per_step),
    }
    medians = {name: ours[0] / theirs[0] if ours and theirs else None for name, (ours, theirs) in prices.items()}
    return {"parameters": here.trainable / lora.trainable, **medians}


def _title(name: str) -> str:
    return "Mean" if name == MEAN else tasks.get(name).title


def _percent(value: float | None) -> str:
    return words.NONE if value is None else f"{100 * value:.1f}"
