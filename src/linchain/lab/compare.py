"""From a plan to its report: search every contestant alike, train the chosen settings on several seeds, measure the cost."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from rich.console import Console

from linchain.errors import LinchainError
from linchain.files import LOCK, check_writable, folder_lock, remove, write_json, write_text
from linchain.lab.environment import check_same
from linchain.lab.executor import Executor, MachineLostError, run_all
from linchain.lab.progress import PlanProgress
from linchain.lab.queue import local_executor
from linchain.lab.trials import MARK, Comparison, Stage, Trial, holds_comparison
from linchain.training.load_config import build_config, differences, load_config
from linchain.training.run_folder import foreign_names

COST_MACHINE = "cost-machine.txt"


def compare(comparison: Comparison, console: Console | None = None, executor: Executor | None = None) -> Comparison:
    """Runs what of the plan has not been run, and writes environment.json and summary.json.

    The runs go to `executor`, by default to processes of this machine.

    A comparison that was killed continues where it stopped, and ends in the same summary.json as an undisturbed one. A run
    that fails is a row with its error; started again, the comparison tries it again, unless it diverged.

    Raises LinchainError, before anything is run, for a folder that holds another plan or something else.
    """
    check_folder(comparison)
    executor = executor or local_executor(comparison.plan.threads)
    return run_plan(comparison, console or Console(quiet=True), executor)


def run_plan(comparison: Comparison, console: Console, executor: Executor) -> Comparison:
    """The part of `compare` that runs and writes, in a folder that has been checked."""
    plan = comparison.plan
    with folder_lock(comparison.folder):
        write_text(comparison.plan_file, comparison.dump_plan())
        with PlanProgress(console, expected_runs(comparison), executor.places) as progress:
            earlier = Counter(trial.stage for trial in comparison.trials if not _to_run(trial))
            for stage, count in earlier.items():
                progress.begin(stage, count)
            _run_stage("search", comparison.search_trials(), executor, progress)
            _run_stage("final", comparison.final_trials(_choices(comparison)), executor, progress)
            _measure_costs(comparison, executor, progress)
        done = Comparison(plan, comparison.folder)  # what it says is read once, of what has been run by now
        write_json(done.environment_file, done.environment)
        with console.status("comparing"):
            write_summary(done)
    return done


def check_folder(comparison: Comparison) -> None:
    """Refuse a folder that holds something else, runs that this plan would have configured otherwise, or runs on other data.

    A plan may grow: more seeds, rates or contestants leave the runs that are there as they are.
    """
    check_writable(comparison.folder)
    begun = holds_comparison(comparison.folder)
    if comparison.plan_file.exists() and not begun:
        raise LinchainError(
            f"{comparison.plan_file} was not written by linchain compare (its first line is not {MARK!r}) and would be "
            "overwritten; choose another output"
        )
    if not begun and foreign_names(comparison.folder, {LOCK}):
        raise LinchainError(
            f"output folder {comparison.folder} is not empty and holds no comparison; choose another one"
        )
    for trial in comparison.trials:
        if not trial.files.config.is_file():
            continue
        then, now = load_config(trial.files.config), build_config(dict(trial.values))
        if changed := differences(then, now):
            raise LinchainError(
                f"{comparison.folder} holds runs of another plan ({trial.describe()}: {'; '.join(changed)}); "
                "choose another output"
            )
    check_same(comparison.environments)


def expected_runs(comparison: Comparison) -> dict[str, int]:
    """How many runs of each stage the whole plan has."""
    plan = comparison.plan
    pairs = len(plan.contestants) * len(plan.budgets)
    return {
        "search": len(comparison.search_trials()),
        "final": pairs * len(plan.seeds),
        "cost": len(plan.contestants) * plan.cost.rounds,
    }


def write_summary(comparison: Comparison) -> None:
    """summary.json: the statistics of what has been run, without times, so that it is the same however it came to be."""
    content = asdict(comparison.analysis)
    del content["measured"]
    for timed in content["costs"]:
        for name in ("seconds_per_step", "memory_bytes", "train_seconds", "runs"):
            timed.pop(name, None)
    write_json(comparison.summary, _finite(content))


def _finite(content: Any) -> Any:
    """None for every number that JSON does not have, such as a perplexity beyond all bounds."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _choices(comparison: Comparison) -> dict[tuple[str, int | None], float]:
    return comparison.choices(comparison.search_trials())


def _measure_costs(comparison: Comparison, executor: Executor, progress: PlanProgress) -> None:
    """The cost runs, alone on one machine, or the figures would be of the neighbours, too. Another where that goes down."""
    costs = _shuffled(comparison.cost_trials(_choices(comparison)))
    while True:
        with suppress(MachineLostError):
            return _run_stage("cost", costs, _for_costs(comparison, costs, executor), progress)


def _for_costs(comparison: Comparison, trials: Sequence[Trial], executor: Executor) -> Executor:
    """One machine for all figures of cost. Where that of earlier ones is gone, they are measured again on another."""
    if not any(_to_run(trial) for trial in trials):
        return executor
    file, machines = comparison.folder / COST_MACHINE, executor.machines()
    if not machines:
        raise LinchainError("no node is left that a run fits on; start one, and give the command again")
    before = file.read_text(encoding="utf-8").strip() if file.is_file() else None
    machine = before if before in machines else machines[0]
    if before not in (None, machine):
        for trial in trials:
            trial.files.clear()
    write_text(file, f"{machine}\n")
    return executor.alone_on(machine)


def _run_stage(stage: Stage, trials: Sequence[Trial], executor: Executor, progress: PlanProgress) -> None:
    def finished(trial: Trial, seconds: float) -> None:
        _leave_what_is_read(trial)
        progress.finished(trial, seconds)

    for trial in trials:  # a kill may have come before the last time
        _leave_what_is_read(trial)
    open_ones = [trial for trial in trials if _to_run(trial)]
    progress.begin(stage, len(trials) - len(open_ones))
    if open_ones:
        run_all(open_ones, executor, finished)


def _leave_what_is_read(trial: Trial) -> None:
    """Of a finished run: no checkpoints, and weights of final runs only. A plan has many runs, and disks are finite."""
    if trial.state == "done":
        with suppress(OSError):  # a network file system keeps what somebody has open; the result is there all the same
            trial.files.checkpoints.clear()
            for path in () if trial.stage == "final" else (trial.files.adapter, trial.files.model):
                remove(path)


def _to_run(trial: Trial) -> bool:
    """Whether the trial has not been run, or failed in a way that another try may mend."""
    return trial.state == "missing" or (trial.failure is not None and not trial.failure["diverged"])


def _shuffled(trials: Sequence[Trial]) -> list[Trial]:
    """Each round in an order of its own, so that a slow minute of the machine does not fall on one contestant alone."""
    rounds = defaultdict(list)
    for trial in trials:
        rounds[trial.seed or 0].append(trial)
    return [trial for seed, one in sorted(rounds.items()) for trial in random.Random(seed).sample(one, len(one))]
