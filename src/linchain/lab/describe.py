"""What a plan will do, before it does it: its runs, their parameters and memory, and about how long it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linchain import methods
from linchain.diagnostics.memory import estimate_training_memory
from linchain.diagnostics.parameters import parameter_counts
from linchain.errors import LinchainError
from linchain.evaluation.models import head_options, load_model_config, model_path
from linchain.lab.compare import expected_runs
from linchain.lab.environment import check_same
from linchain.lab.executor import Executor, run_all
from linchain.lab.plan import Contestant
from linchain.lab.queue import local_executor
from linchain.lab.trials import Comparison
from linchain.training.config import RunConfig
from linchain.training.display import answers_line, mebibytes, overlap_line, steps_of
from linchain.training.environment import describe_environment
from linchain.training.load_config import build_config
from linchain.training.prepare import PreparedData, prepare_data

PROBE_STEPS = 5
LEFT_OUT_SHOWN = 4  # names


@dataclass(frozen=True)
class ContestantSize:
    """Trainable and all parameters, and the bytes of a training step, where asked for."""

    trainable: int
    total: int
    memory: int | None


def describe(comparison: Comparison, executor: Executor | None = None, *, costs: bool) -> RenderableType:
    """A table of the contestants and a line on the runs. With `costs` also memory, and the time by a probe of a few steps.

    The runs would go to `executor`, by default to processes of this machine.

    Raises LinchainError for whatever data, model or target modules make impossible, and where model or data have changed
    since the first runs: nothing has been run then.
    """
    plan = comparison.plan
    executor = executor or local_executor(plan.threads)
    config = build_config(dict(comparison.example_trial(plan.contestants[0]).values))
    data = prepare_data(config)
    _check_unchanged(comparison, config, data)
    table = Table("contestant", "options", "learning rates")
    table.add_column("trainable", justify="right")
    if costs:
        table.add_column("memory", justify="right")
    for contestant in plan.contestants:
        size = _size(contestant, config, data, memory=costs)
        row = [contestant.label, _options(contestant), ", ".join(f"{rate:g}" for rate in contestant.learning_rates)]
        row.append(f"{size.trainable:,} ({100 * size.trainable / size.total:.2f} %)")
        if costs:
            row.append(mebibytes(size.memory or 0))
        table.add_row(*map(Text, row))
    lines = [_runs_line(comparison, data), _places_line(executor), *_left_out_lines(comparison)]
    lines.append(f"overlap with the training data: {overlap_line(data.overlaps)}")
    if data.validation_overlaps:
        lines.append(f"overlap with the validation data: {overlap_line(data.validation_overlaps, 'validation')}")
    for scored in (data.scored_validation, data.test):
        if scored and (warning := answers_line(scored)):
            lines.append(warning)
            break
    if costs:
        lines.append(_time_line(comparison, data, executor))
    return Group(table, *map(Text, lines))


def _check_unchanged(comparison: Comparison, config: RunConfig, data: PreparedData) -> None:
    """LinchainError where the runs that are there read other files than those to come would."""
    before = comparison.environments
    if before:  # hashing a large model takes a while
        check_same(before | {"this plan": describe_environment(model_path(config.model.name), data.records)})


def _size(contestant: Contestant, config: RunConfig, data: PreparedData, memory: bool) -> ContestantSize:
    """Of the contestant on the base model without weights."""
    import peft
    import torch
    import transformers

    model_config = load_model_config(config.model.name)
    loader: Any = transformers.AutoModelForCausalLM
    task_type = peft.TaskType.CAUSAL_LM
    if data.labels is not None:
        loader, task_type = transformers.AutoModelForSequenceClassification, peft.TaskType.SEQ_CLS
        for name, value in head_options(data.labels).items():
            setattr(model_config, name, value)
    dtype = {} if config.model.dtype == "auto" else {"dtype": getattr(torch, config.model.dtype)}
    with torch.device("meta"):
        base = loader.from_config(model_config, **dtype)
    model = methods.get(contestant.method).adapt(base, contestant.options, task_type=task_type)
    trainable, total = parameter_counts(model)
    if not memory:
        return ContestantSize(trainable, total, None)
    estimate = estimate_training_memory(
        model,
        batch_size=config.training.batch_size,
        sequence_length=max(len(example.input_ids) for example in data.train),
        gradient_checkpointing=config.training.gradient_checkpointing,
    )
    return ContestantSize(trainable, total, estimate.total)


def _options(contestant: Contestant) -> str:
    shown = {name: value for name, value in contestant.options.items() if name != "target_modules"}
    named = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"{contestant.method}: {named}" if named else contestant.method


def _runs_line(comparison: Comparison, data: PreparedData) -> str:
    plan, expected = comparison.plan, expected_runs(comparison)
    counts = ", ".join(f"{len(records):,} {split}" for split, records in data.records.items())
    return (
        f"{sum(expected.values())} runs: {expected['search']} to search, {expected['final']} final (seeds "
        f"{', '.join(map(str, plan.seeds))}), {expected['cost']} to measure cost; reference {plan.reference}; data: {counts}; "
        f"output {comparison.folder}"
    )


def _places_line(executor: Executor) -> str:
    return f"{executor.describe()}; those that measure cost one at a time"


def _left_out_lines(comparison: Comparison) -> list[str]:
    """Names what the folder holds beyond the plan: a plan that has grown on the command line only is short of it."""
    found = comparison.left_out
    if not found:
        return []
    labels = {one.label for one in comparison.plan.contestants}
    parts = [folder.relative_to(comparison.runs).parts for folder in found]
    names = list(dict.fromkeys(folder[-1] if folder[0] in labels else folder[0] for folder in parts))
    shown = ", ".join(names[:LEFT_OUT_SHOWN]) + (", …" if len(names) > LEFT_OUT_SHOWN else "")
    runs = "1 run" if len(found) == 1 else f"{len(found)} runs"
    return [f"{comparison.runs.name}/ also holds {runs} that this plan does not name ({shown}): left out"]


def _time_line(comparison: Comparison, data: PreparedData, executor: Executor) -> str:
    places = executor.places()
    try:
        seconds = _probe(comparison, executor)
    except LinchainError as error:
        return f"time: unknown, the probe of {PROBE_STEPS} steps failed: {error}"
    steps = _all_steps(comparison, len(data.train))
    whole = timedelta(seconds=round(seconds * steps / places))
    return (
        f"time: about {whole} for {steps:,} steps, {places} at a time, at {1000 * seconds:.0f} ms a step of "
        f"{comparison.plan.reference} (a probe of {PROBE_STEPS} steps); loading and evaluation come on top"
    )


def _probe(comparison: Comparison, executor: Executor) -> float:
    """Seconds of a step of the reference, alone on a machine. Raises LinchainError with the error of the run."""
    with tempfile.TemporaryDirectory(dir=executor.scratch) as folder:
        trial = comparison.probe_trial(Path(folder) / "probe", PROBE_STEPS)
        run_all([trial], executor.alone_on(executor.machines()[0]), lambda trial, seconds: None)
        if trial.error:
            raise LinchainError(trial.error)
        return trial.result["cost"]["seconds_per_step"]


def _all_steps(comparison: Comparison, examples: int) -> int:
    """Optimizer steps of the whole plan."""
    plan = comparison.plan
    training = build_config(dict(comparison.example_trial(plan.contestants[0]).values)).training
    by_budget: Sequence[int] = [budget or steps_of(training, examples) for budget in plan.budgets]
    runs = sum(len(one.learning_rates) if plan.searches else 0 for one in plan.contestants)
    runs += len(plan.contestants) * len(plan.seeds)
    return sum(by_budget) * runs + len(plan.contestants) * plan.cost.rounds * plan.cost.steps
