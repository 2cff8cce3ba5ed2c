"""The runs of a comparison: what each of them is, where it lies, and what became of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from linchain.errors import LinchainError
from linchain.lab.choice import chosen_rates
from linchain.lab.environment import gather
from linchain.lab.plan import DECIDED, Contestant, Plan, load_plan, run_values
from linchain.lab.run_files import Environment, Failure, Logged, Measured, Predicted, Result, read_file, read_rows
from linchain.paths import user_path
from linchain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from linchain.lab.findings import Analysis

PLAN, RUNS = "plan.yaml", "runs"
RUNS_NAMED = 6  # in a message
MARK = "# The resolved plan of this comparison, written by linchain compare."
Stage = Literal["search", "final", "cost"]
# What a run calls its scores and predictions of each split.
SPLITS = {"validation": "validation", "test": "after"}


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        contestant: its label.
        stage: "search" (scored on the validation split), "final" (scored once on the test split), or "cost" (some steps
            alone on the machine).
        budget: optimizer steps; None where the plan has no budgets.
        learning_rate: of its training.
        seed: of a final run; the number of the round of a cost run; None for a search.
        folder: its run folder.
        values: its configuration, as `linchain.training.load_config.build_config` takes it.
    """

    contestant: str
    stage: Stage
    budget: int | None
    learning_rate: float
    seed: int | None
    folder: Path
    values: Mapping[str, Any]

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def state(self) -> Literal["done", "failed", "missing"]:
        if self.files.result.is_file():
            return "done"
        return "failed" if self.files.error.is_file() else "missing"

    @property
    def failure(self) -> dict[str, Any] | None:
        """error.json of a failed run: `error`, one line, and whether the run `diverged`."""
        return read_file(Failure, self.files.error) if self.state == "failed" else None

    @property
    def error(self) -> str | None:
        """Why a failed run failed, in one line."""
        return self.failure["error"] if self.failure else None

    @cached_property
    def result(self) -> dict[str, Any]:
        """result.json of a finished run. Raises LinchainError where it is damaged, as all that reads its files does."""
        found = read_file(Result, self.files.result)
        if self.stage == "search" and not found["scores"].get(SPLITS["validation"]):
            raise LinchainError(f"{self.files.result}: scores: none of the validation split")
        return found

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The logged losses by step."""
        return read_rows(Logged, self.files.metrics) if self.files.metrics.is_file() else []

    @cached_property
    def diagnostics(self) -> list[dict[str, Any]]:
        """What was measured of the update along training; empty where nothing was."""
        return read_rows(Measured, self.files.diagnostics) if self.files.diagnostics.is_file() else []

    def scores(self, split: str) -> list[dict[str, Any]]:
        """Scores of a finished run on the split "validation" or "test", one for each task and metric."""
        return self.result["scores"].get(SPLITS[split], [])

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """One row a record of the split "validation" or "test", in the order of the data."""
        return read_rows(Predicted, self.files.predictions / f"{SPLITS[split]}.jsonl")

    def describe(self) -> str:
        """The trial in a few words."""
        budget = "" if self.budget is None else f", {self.budget} steps"
        what = {
            "search": f"search at {self.learning_rate:g}",
            "final": f"seed {self.seed}",
            "cost": f"cost, round {self.seed}",
        }
        return f"{self.contestant}: {what[self.stage]}{budget}"


def holds_comparison(folder: Path) -> bool:
    """Whether plan.yaml in `folder` is one that a comparison wrote. Without our mark it is a user's own."""
    file = folder / PLAN
    return file.is_file() and file.read_bytes().startswith(MARK.encode())


class Comparison:
    """A comparison's folder: its plan, and the trials that the plan asks for.

    plan.yaml           the resolved plan                   runs/<contestant>/…   a run folder for each trial
    environment.json    versions, machine, commit, hashes   summary.json          the statistics
    report.html         the report, also as report.md       tables/*.csv          its tables
    """

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        self.plan = plan
        self.folder = folder or plan.output
        self.plan_file = self.folder / PLAN
        self.runs = self.folder / RUNS
        self.environment_file = self.folder / "environment.json"
        self.summary = self.folder / "summary.json"

    @classmethod
    def load(cls, folder: Path | str) -> Comparison:
        """The comparison in `folder`, finished or not. Raises LinchainError where there is none."""
        folder = user_path(folder)
        if not holds_comparison(folder):
            raise LinchainError(_why_none(folder))
        return cls(load_plan(folder / PLAN), folder)

    def dump_plan(self) -> str:
        """plan.yaml: our mark, and what `load` reads back to an equal plan."""
        values = self.plan.config.model_dump(mode="json")
        for key in DECIDED:  # they would be refused
            *sections, name = key.split(".")
            del reduce(dict.__getitem__, sections, values)[name]
        return f"{MARK}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"

    @property
    def environment(self) -> dict[str, Any]:
        """What its runs were made with (`linchain.lab.environment.gather`); empty before the first one."""
        return gather(self.environments)

    @property
    def environments(self) -> dict[str, dict[str, Any]]:
        """environment.json of every run that has begun, by its folder."""
        files = {str(trial.folder): trial.files.environment for trial in self.trials}
        return {folder: read_file(Environment, file) for folder, file in files.items() if file.is_file()}

    @cached_property
    def analysis(self) -> Analysis:
        """The statistics of what has been run when it is first asked for. Raises LinchainError as `analyse` does."""
        from linchain.lab.analysis import analyse

        return analyse(self)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial that is known by now: final and cost runs are once the learning rates are chosen."""
        search = self.search_trials()
        choices = self.choices(search)
        return (*search, *self.final_trials(choices), *self.cost_trials(choices))

    @property
    def left_out(self) -> tuple[Path, ...]:
        """Folders of runs that this plan does not name, such as those of a contestant that an earlier plan had."""
        chosen = self.choices(self.search_trials())
        named = {trial.folder for trial in self.trials}
        for budget, one in itertools.product(self.plan.budgets, self.plan.contestants):
            pair = (one.label, budget)
            for rate in () if pair in chosen else one.learning_rates:  # any of them may be chosen yet
                named |= {trial.folder for trial in self.final_trials({pair: rate})}
                named |= {trial.folder for trial in self.cost_trials({pair: rate})}
        found = {file.parent for depth in ("*/*", "*/*/*") for file in self.runs.glob(f"{depth}/config.yaml")}
        return tuple(sorted(found - named))

    def search_trials(self) -> tuple[Trial, ...]:
        """Each contestant at each learning rate and budget; none where there is one rate only."""
        if not self.plan.searches:
            return ()
        return tuple(
            self._trial(contestant, "search", budget, rate, None, f"search-{rate:g}")
            for budget in self.plan.budgets
            for contestant in self.plan.contestants
            for rate in contestant.learning_rates
        )

    def choices(self, search: tuple[Trial, ...]) -> dict[tuple[str, int | None], float]:
        """The learning rate of each contestant and budget whose search is over; the plan's only one without a search."""
        if not self.plan.searches:
            pairs = ((one, budget) for budget in self.plan.budgets for one in self.plan.contestants)
            return {(one.label, budget): one.learning_rates[0] for one, budget in pairs}
        found = {key: choice.learning_rate for key, choice in chosen_rates(search).items()}
        return {key: rate for key, rate in found.items() if rate is not None}

    def final_trials(self, choices: Mapping[tuple[str, int | None], float]) -> tuple[Trial, ...]:
        """Each contestant at its chosen rate with each seed. Seed by seed, so that an unfinished comparison is level."""
        return tuple(
            self._trial(contestant, "final", budget, rate, seed, f"seed-{seed}-at-{rate:g}")
            for seed in self.plan.seeds
            for contestant, budget, rate in self._chosen(choices)
        )

    def cost_trials(self, choices: Mapping[tuple[str, int | None], float]) -> tuple[Trial, ...]:
        """Each contestant for a few steps, in rounds. The largest budget's rate: a step costs the same at any."""
        last = self.plan.budgets[-1]
        return tuple(
            self._trial(contestant, "cost", None, rate, round, f"cost-{round}-at-{rate:g}")
            for round in range(1, self.plan.cost.rounds + 1)
            for contestant, budget, rate in self._chosen(choices)
            if budget == last
        )

    def example_trial(self, contestant: Contestant) -> Trial:
        """A final run of the contestant, for what all its runs share: nothing is chosen yet."""
        plan = self.plan
        return self._trial(contestant, "final", plan.budgets[0], contestant.learning_rates[0], plan.seeds[0], "example")

    def probe_trial(self, folder: Path, steps: int) -> Trial:
        """A few steps of the reference in a folder elsewhere, to time them."""
        trial = self.example_trial(self.plan.contestant(self.plan.reference))
        values = _for_stage(dict(trial.values), "cost", steps)
        return replace(trial, stage="cost", folder=folder, values={**values, "output": str(folder)})

    def _chosen(
        self, choices: Mapping[tuple[str, int | None], float]
    ) -> Iterator[tuple[Contestant, int | None, float]]:
        for budget in self.plan.budgets:
            for contestant in self.plan.contestants:
                if (contestant.label, budget) in choices:
                    yield contestant, budget, choices[contestant.label, budget]

    def _trial(
        self, contestant: Contestant, stage: Stage, budget: int | None, rate: float, seed: int | None, name: str
    ) -> Trial:
        within = "" if budget is None else f"steps-{budget}"
        folder = self.runs / contestant.label / within / name
        values = run_values(self.plan, contestant, rate, seed if stage == "final" else None, budget, folder)
        return Trial(
            contestant.label, stage, budget, rate, seed, folder, _for_stage(values, stage, self.plan.cost.steps)
        )


def _why_none(folder: Path) -> str:
    """Why `folder` is not the folder of a comparison, and where comparisons are."""
    if folder.is_file():
        return f"{folder} is a file: give the folder of a comparison{_of_plan(folder)}"
    inside = sorted(file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{PLAN}"))
    if found := [str(one) for one in inside if holds_comparison(one)]:
        return f"{folder} is no comparison; it holds {', '.join(found)}: name one of them"
    if (folder / PLAN).is_file():
        return (
            f"{folder} holds no comparison: {folder / PLAN} was not written by linchain compare (its first line is not "
            f"{MARK!r})"
        )
    return f"{folder} holds no comparison: there is no {PLAN}"


def _of_plan(file: Path) -> str:
    """Where the comparison of the plan in `file` is, if that is a plan and there is one."""
    try:
        folder = file.parent if holds_comparison(file.parent) else load_plan(file).output
    except LinchainError:
        return ""
    return f", here {folder}" if holds_comparison(folder) else f" (of this plan: {folder}, where there is none yet)"


def check_no_comparison(path: Path) -> None:
    """LinchainError where `path` is the folder of a whole comparison, and a run or an adapter is asked for."""
    path = user_path(path)
    if holds_comparison(path):
        finals = [str(trial.folder) for trial in Comparison.load(path).trials if trial.stage == "final"]
        done = [folder for folder in finals if RunFolder(folder).result.is_file()]
        runs = ", ".join(done[:RUNS_NAMED]) + (", …" if len(done) > RUNS_NAMED else "")
        raise LinchainError(f"{path} is a comparison; its runs with weights are {runs or 'not done yet'}")


def _for_stage(values: dict[str, Any], stage: Stage, cost_steps: int) -> dict[str, Any]:
    """A run's configuration with what its stage needs, and nothing else: test data are seen by final runs only."""
    data, training, evaluation = (dict(values[section]) for section in ("data", "training", "evaluation"))
    evaluation["baseline"] = False
    if stage != "final":
        data["test"] = None
        training["diagnostics_steps"] = None
    if stage == "search":
        evaluation["score_validation"] = True
    if stage == "cost":
        training |= {"max_steps": cost_steps, "keep_best": False}
    return {**values, "data": data, "training": training, "evaluation": evaluation}
