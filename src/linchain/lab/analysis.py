"""From the runs of a comparison to what they say: scores, both kinds of error, differences, costs, a verdict."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from linchain.errors import LinchainError
from linchain.evaluation.scores import MEAN
from linchain.lab.choice import NOT_A_NUMBER, Choice, CurvePoint, chosen_rates, higher_is_better
from linchain.lab.findings import ONLY_TEST, Analysis, Cost, Difference, Failure, Line, Range, SeedScore, Table
from linchain.lab.samples import FinalRun, Part, Sample, differences, read_runs, resolvable, take_samples
from linchain.lab.verdict import measured, resolution, verdict

if TYPE_CHECKING:
    from linchain.lab.plan import Plan
    from linchain.lab.trials import Comparison, Trial

__all__ = ["Analysis", "Cost", "CurvePoint", "Difference", "Failure", "Line", "SeedScore", "Table", "analyse"]

Choices = Mapping[tuple[str, int | None], Choice]


def analyse(comparison: Comparison) -> Analysis:
    """What the finished runs of `comparison` say; the same each time it is asked.

    Raises LinchainError where final runs were tested on different examples.
    """
    plan, trials = comparison.plan, comparison.trials
    choices = chosen_rates(trials)
    tables = tuple(table for budget in plan.budgets for table in _tables(plan, trials, budget, choices))
    costs, failures = tuple(_costs(plan, trials)), tuple(_failures(trials))
    return Analysis(
        tables, tuple(verdict(plan, tables, costs, failures)), tuple(measured(plan, tables, costs)), costs, failures
    )


def _tables(plan: Plan, trials: Sequence[Trial], budget: int | None, choices: Choices) -> Iterator[Table]:
    finals = [one for one in trials if (one.stage, one.budget, one.state) == ("final", budget, "done")]
    if not finals:
        return
    runs = read_runs(finals)
    scored: list[Part] = [(score.get("task"), score["name"]) for score in finals[0].scores("test")]
    of_mean: dict[str | None, str] = {}
    for task, metric in scored:
        if task != MEAN:
            of_mean.setdefault(task, metric)
    for task, metric in scored:
        try:
            samples = take_samples(metric, list(of_mean.items()) if task == MEAN else [(task, metric)], runs)
        except KeyError as error:
            raise LinchainError(
                f"{finals[0].files.result}: scores: {metric!r:.80} is not what the predictions of the final runs hold ({error})"
            ) from error
        if samples:
            lines = [_line(plan, one.label, budget, choices, samples) for one in plan.contestants]
            table = _table(task or ONLY_TEST, metric, budget, _compared(plan.reference, lines, samples), samples)
            yield table if task == MEAN else _with_answers(table, task, runs)


def _line(plan: Plan, label: str, budget: int | None, choices: Choices, samples: Mapping[str, Sample]) -> Line:
    """The line as it is without the others."""
    only_rate = None if plan.searches else plan.contestant(label).learning_rates[0]
    choice = choices.get((label, budget), Choice(only_rate, None, None, ()))
    sample = samples.get(label)
    low, high = sample.interval() if sample else (None, None)
    return Line(
        contestant=label,
        learning_rate=choice.learning_rate,
        edge=choice.edge,
        curve=choice.curve,
        seeds=sample.seeds if sample else (),
        value=sample.value if sample else None,
        low=low,
        high=high,
        seed_sd=sample.seed_sd if sample else None,
        difference=None,
        from_best=None,
        level_with_best=False,
    )


def _compared(reference: str, lines: Sequence[Line], samples: Mapping[str, Sample]) -> list[Line]:
    """The lines, best first, with their differences from the reference and whether they are level with the best."""
    higher = higher_is_better(next(iter(samples.values())).metric)
    labels = sorted(samples, key=lambda label: samples[label].value, reverse=higher)
    pairs = list(itertools.combinations(labels, 2))
    from_best = {
        other: found for (one, other), found in zip(pairs, differences(samples, pairs), strict=True) if one == labels[0]
    }
    rivals = [label for label in labels if label != reference] if reference in samples else []
    from_reference = dict(zip(rivals, differences(samples, [(label, reference) for label in rivals]), strict=True))
    by_label = {line.contestant: line for line in lines}
    return [
        replace(
            by_label[label],
            difference=from_reference.get(label),
            from_best=from_best.get(label),
            level_with_best=label not in from_best or not from_best[label].distinguishable,
        )
        for label in labels
    ] + [line for line in lines if line.contestant not in samples]


def _table(test: str, metric: str, budget: int | None, lines: Sequence[Line], samples: Mapping[str, Sample]) -> Table:
    n, (smallest, with_seeds) = next(iter(samples.values())).n, resolvable(samples)
    return Table(
        test=test,
        metric=metric,
        higher_is_better=higher_is_better(metric),
        n=n,
        budget=budget,
        lines=tuple(lines),
        resolvable=smallest,
        resolvable_with_seeds=with_seeds,
        resolution=resolution(n, smallest, metric),
        most_frequent=None,
        one_answer=(),
    )


def _with_answers(table: Table, task: str | None, runs: Sequence[FinalRun]) -> Table:
    """The table of one task, with what its answers show by themselves."""
    constant = {run.contestant for run in runs if run.gives_one_answer(task)}
    return replace(
        table,
        most_frequent=runs[0].most_frequent(task) if table.metric == "accuracy" else None,
        one_answer=tuple(line.contestant for line in table.lines if line.contestant in constant),
    )


def _costs(plan: Plan, trials: Sequence[Trial]) -> Iterator[Cost]:
    """For every budget and contestant with a finished run. Cost runs are of no budget: a step costs the same at any.

    All are of the same kind: what runs alone on the machine is not compared with what may have had neighbours.
    """
    done = [one for one in trials if one.state == "done"]
    source: Literal["cost", "final"] = "cost" if any(one.stage == "cost" for one in done) else "final"
    for budget in plan.budgets:
        for contestant in plan.contestants:
            own = [one for one in done if one.contestant == contestant.label]
            finals = [one.result for one in own if (one.stage, one.budget) == ("final", budget)]
            alone = [one.result for one in own if one.stage == "cost"]
            if not finals and not alone:
                continue
            costs = [result["cost"] for result in (alone if source == "cost" else finals) if result["cost"]]
            yield Cost(
                contestant=contestant.label,
                budget=budget,
                trainable=(finals or alone)[0]["parameters"]["trainable"],
                total=(finals or alone)[0]["parameters"]["total"],
                seconds_per_step=_range([cost["seconds_per_step"] for cost in costs]),
                memory_bytes=_range([_step_memory(cost) for cost in costs]),
                train_seconds=_whole_run(finals),
                source=source,
                runs=len(costs),
            )


def _whole_run(finals: Sequence[Mapping[str, Any]]) -> float | None:
    """The median time of runs that were made in one go: of a continued one only its last part is known."""
    seconds = [result["seconds"] for result in finals if result["resumed_from_step"] is None]
    return statistics.median(seconds) if seconds else None


def _step_memory(cost: Mapping[str, Any]) -> float | None:
    """Without what the loaded model, Python and the libraries take, which on a CPU is most of a small run's memory.

    None where no step reached more than was taken before: that is a peak of an earlier time, which the system does not let
    a process set back.
    """
    peak, before = cost["peak_memory_bytes"], cost["memory_before_bytes"]
    return None if peak is None or before is None or peak <= before else peak - before


def _range(values: Sequence[float | None]) -> Range | None:
    found = [value for value in values if value is not None]
    return (statistics.median(found), min(found), max(found)) if found else None


def _failures(trials: Sequence[Trial]) -> Iterator[Failure]:
    for trial in trials:
        error: Any = trial.error
        if trial.state == "done" and trial.stage == "final":
            values = [score["value"] for score in trial.scores("test")]
            error = None if all(value is not None and math.isfinite(value) for value in values) else NOT_A_NUMBER
        if error:
            yield Failure(trial.contestant, trial.stage, trial.budget, trial.learning_rate, trial.seed, error)
