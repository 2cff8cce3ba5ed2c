"""The plan of a comparison: one YAML that says which methods are compared, on what, and how they are searched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from linchain import methods
from linchain.errors import LinchainError, unknown_name
from linchain.evaluation.scores import LOWER_IS_BETTER
from linchain.methods.base import Method
from linchain.methods.options import problem as wrong_value
from linchain.paths import user_path
from linchain.training.config import MethodConfig, NamedSection, RunConfig, Section, named_tasks
from linchain.training.load_config import method_mistakes, read_values, validated

SeedPart = Literal["init", "data", "dropout"]
SEED_PARTS: tuple[SeedPart, ...] = ("init", "data", "dropout")
MOST_SEEDS = 10_000
LONGEST_LABEL = 200  # bytes; the names of files end at 255
# What a plan decides for each of its runs, and what to do instead of giving it.
DECIDED = {
    "method": "a plan compares several; name them under methods",
    "training.learning_rate": "a plan searches it; give the rates to try under learning_rates",
    "evaluation.baseline": "a comparison never evaluates the untrained model; leave the key out",
    "evaluation.score_validation": "a comparison always scores its search runs on the validation data, and no others; "
    "leave the key out",
}


class ContestantConfig(NamedSection):
    """`name` of a method, and beside it the label, learning rates of its own, and the method's options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="A method of `linchain methods`.")
    label: str | None = Field(
        default=None, description="Name in tables; needed where a method stands in the plan more than once."
    )
    learning_rates: tuple[float, ...] | None = Field(
        default=None,
        description="A grid of its own, as long as the plan's: an equal search is as many rates for each.",
    )


class CostConfig(Section):
    steps: int = Field(default=10, gt=0, description="Optimizer steps of one measurement of time and memory.")
    rounds: int = Field(default=3, ge=0, description="Measurements of each contestant, in shuffled rounds; 0: none.")


class PlanConfig(RunConfig):
    """A run's sections, the same for every contestant, and what is compared."""

    methods: tuple[ContestantConfig, ...] = Field(
        min_length=1,
        examples=["[lora, linchain]"],
        description="The contestants: names of methods, or mappings of `name`, `label` and options.",
    )
    options: dict[str, Any] = Field(
        default={},
        description="Options for every method that has them, such as `target_modules`, which a plan has to name.",
    )
    reference: str | None = Field(
        default=None, description="The contestant that the others are tested against. Default: the first."
    )
    learning_rates: tuple[float, ...] = Field(
        min_length=1,
        examples=["[1e-3, 1e-2]"],
        description="The grid that each contestant is searched on, with `training.seed`.",
    )
    seeds: tuple[int, ...] = Field(
        default=(1, 2, 3),
        min_length=1,
        examples=["[1, 2, 3]"],
        description="Seeds of the final runs at the chosen rate: a list, or how many.",
    )
    vary: tuple[SeedPart, ...] = Field(
        default=SEED_PARTS,
        min_length=1,
        examples=["[init, data]"],
        description="What a seed moves: the adapter's start, the order of data, dropout. The rest stays at `training.seed`.",
    )
    budgets: tuple[int, ...] = Field(
        default=(),
        examples=["[100, 400]"],
        description="Compare at each of these numbers of optimizer steps, each with a search of its own.",
    )
    threads: int | None = Field(
        default=None,
        gt=0,
        description="CPU threads of a run; as many runs go at a time as fit. Default: all cores, one run at a time; with GPUs "
        "one run on each, and the cores shared among them.",
    )
    cost: CostConfig = CostConfig()

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_from_number(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a list such as [1, 2, 3], or a number of seeds, found {value!r:.80}")
        if value < 1:
            raise ValueError(f"a comparison needs at least one seed, got {value}")
        if value > MOST_SEEDS:
            raise ValueError(f"a comparison takes at most {MOST_SEEDS:,} seeds, got {value}")
        return tuple(range(1, value + 1))

    @model_validator(mode="after")
    def _searchable(self) -> PlanConfig:
        grids = {"learning_rates": self.learning_rates, "budgets": self.budgets}
        grids |= {f"methods.{one.label or one.name}.learning_rates": one.learning_rates or () for one in self.methods}
        for key, values in grids.items():
            # as far as a folder's name tells rates apart
            different = {value if isinstance(value, int) else f"{value:g}" for value in values}
            if len(different) < len(values) or any(not 0 < value < math.inf for value in values):
                raise ValueError(f"{key} must be different positive numbers, found {list(values)}")
        if len(set(self.seeds)) < len(self.seeds) or any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds must be different numbers from 0 to 2**32 - 1, found {list(self.seeds)}")
        if len(self.learning_rates) > 1 and self.training.seed in self.seeds:
            raise ValueError(
                f"seeds: {self.training.seed} is training.seed, that of the search; give one of them another value"
            )
        if self.budgets and self.training.max_steps:
            raise ValueError("training.max_steps: a plan with budgets decides it by budgets")
        for part in self.vary:
            if getattr(self.training, f"{part}_seed") is not None:
                raise ValueError(f"training.{part}_seed: a plan that varies {part} decides it by seeds")
        return self

    @model_validator(mode="after")
    def _choosable(self) -> PlanConfig:
        """By validation data, which are no test data, and by one score."""
        if not self.data.test:
            raise ValueError("data.test: a comparison needs test data")
        if len(self.learning_rates) > 1 and not (self.data.validation or self.data.validation_size):
            raise ValueError(
                "a search needs data.validation or data.validation_size: no learning rate is chosen by test data"
            )
        files = [source for source in self.data.validation or () if ":" not in source]  # names have splits of their own
        if both := sorted({*files} & {*self.data.test}):
            raise ValueError(
                f"data.validation and data.test hold the same file ({', '.join(both)}): test data would choose"
            )
        scored = named_tasks({"validation": self.data.validation or self.data.train})
        of_each = self.evaluation.metric == "auto" and self.evaluation.scorer == "generate"
        if len(self.learning_rates) > 1 and of_each and len({task.metric in LOWER_IS_BETTER for task in scored}) > 1:
            raise ValueError(
                "data.validation: a loss and a score that is better when it is higher have no mean to choose a learning "
                f"rate by ({', '.join(f'{task.name}: {task.metric}' for task in scored)})"
            )
        return self


# The keys of a plan that a run does not have.
OWN_KEYS = tuple(name for name in PlanConfig.model_fields if name not in RunConfig.model_fields)


@dataclass(frozen=True)
class Contestant:
    """A method with its options under the name that the tables call it by, and the learning rates that it is searched on."""

    label: str
    method: str
    options: dict[str, Any]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """What a comparison does.

    `run` holds the sections that all runs share, as a run's configuration has them; `config` is the plan as it was
    written, with its defaults filled in.
    """

    contestants: tuple[Contestant, ...]
    reference: str
    seeds: tuple[int, ...]
    vary: tuple[str, ...]
    budgets: tuple[int | None, ...]
    threads: int | None
    cost: CostConfig
    output: Path
    run: dict[str, Any]
    config: PlanConfig

    @property
    def searches(self) -> bool:
        """Whether there is more than one learning rate to choose from."""
        return any(len(contestant.learning_rates) > 1 for contestant in self.contestants)

    def contestant(self, label: str) -> Contestant:
        """The contestant of this label."""
        return next(contestant for contestant in self.contestants if contestant.label == label)


def load_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan in the YAML file `path`, with `key.key=value` overrides.

    Raises LinchainError: one message that lists every mistake in the file and the overrides.
    """
    values, mistakes = read_values(path, overrides)
    if not {"methods", "learning_rates"} & values.keys():
        raise LinchainError(
            f"{path} is no plan of a comparison, it has neither methods nor learning_rates; one run is: linchain train {path}"
        )
    return build_plan(values, str(path), mistakes)


def build_plan(values: dict[str, Any], origin: str = "plan", mistakes: Sequence[str] = ()) -> Plan:
    """The plan that `values` hold. Raises LinchainError as `load_plan` does."""
    found = [*mistakes, *_decided_mistakes(values), *_method_mistakes(values)]
    config = validated(PlanConfig, values, origin, found)
    run = config.model_dump(mode="json", exclude={*OWN_KEYS, "method", "output"})
    contestants = tuple(_contestant(one, config) for one in config.methods)
    return Plan(
        contestants=contestants,
        reference=config.reference or contestants[0].label,
        seeds=config.seeds,
        vary=config.vary,
        budgets=tuple(sorted(config.budgets)) or (None,),
        threads=config.threads,
        cost=config.cost,
        output=user_path(config.output),
        run=run,
        config=config,
    )


def _contestant(one: ContestantConfig, config: PlanConfig) -> Contestant:
    options = _with_shared(methods.get(one.name), config.options, dict(one.model_extra or {}))
    return Contestant(one.label or one.name, one.name, options, one.learning_rates or config.learning_rates)


def _with_shared(method: Method, shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A contestant's options: those of `shared` that its method has and its own do not settle, and its own."""
    settled = {name for name, other in method.settled_by.items() if own.get(other) is not None}
    return {name: value for name, value in shared.items() if name in method.options and name not in settled} | dict(own)


def _decided_mistakes(values: Mapping[str, Any]) -> list[str]:
    """Keys of a run that would do nothing in a plan."""
    mistakes = []
    for key, instead in DECIDED.items():
        inside: Any = values
        for part in key.split("."):
            inside = inside.get(part) if isinstance(inside, Mapping) else None
        if inside is not None:
            mistakes.append(f"{key}: {instead}")
    return mistakes


def _method_mistakes(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the contestants beyond the schema: labels, options, grids, targets that nobody named."""
    given, shared = values.get("methods"), values.get("options") or {}
    if not isinstance(given, list | tuple) or not isinstance(shared, Mapping):
        return []  # the schema reports it
    entries = [{"name": one} if isinstance(one, str) else one for one in given]
    if not all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in entries):
        return []
    mistakes = _shared_mistakes(entries, shared)
    # said once, not for every contestant that has the option
    right = {name: value for name, value in shared.items() if not wrong_value(name, value)}
    for one in entries:
        mistakes += _entry_mistakes(one, right, values.get("learning_rates"))
    labels = [str(one.get("label") or one["name"]) for one in entries]
    mistakes += [
        f"methods: {label!r} stands there {count} times; give each a label of its own"
        for label, count in Counter(label.casefold() for label in labels).items()  # as some disks read them
        if count > 1
    ]
    reference = values.get("reference")
    if reference is not None and reference not in labels:
        mistakes.append(f"reference: {unknown_name('contestant', str(reference), labels)}")
    return mistakes


def _shared_mistakes(entries: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of all contestants, whichever of them has the option."""
    mistakes = [f"options.{problem}" for name, value in shared.items() if (problem := wrong_value(name, value))]
    if not entries or any(one["name"] not in methods.names() for one in entries):
        return mistakes  # nobody knows what options those have
    known = {option for one in entries for option in methods.get(one["name"]).options}
    mistakes += [
        f"options.{name}: {unknown_name('option of these methods', name, known)}"
        for name in shared
        if name not in known
    ]
    nameless = [
        str(one.get("label") or one["name"])
        for one in entries
        if "target_modules" in methods.get(one["name"]).options
        and not (one.get("target_modules") or shared.get("target_modules"))
    ]
    if nameless:
        mistakes.append(
            f"options.target_modules: a comparison has to name them (for {', '.join(nameless)}), since their defaults "
            "differ between methods"
        )
    return mistakes


def _entry_mistakes(one: Mapping[str, Any], shared: Mapping[str, Any], rates: Any) -> list[str]:
    own = {name: value for name, value in one.items() if name not in ("name", "label", "learning_rates")}
    label = str(one.get("label") or one["name"])
    if one["name"] not in methods.names():
        return method_mistakes({"name": one["name"]}, f"methods.{label}")
    options = _with_shared(methods.get(one["name"]), shared, own)
    mistakes = method_mistakes({"name": one["name"], **options}, f"methods.{label}")
    if not label.strip() or label.startswith(".") or {*label} & {*"/\\"} or not label.isprintable():
        mistakes.append(f"methods: the label {label!r} cannot be the name of a folder")
    if len(label.encode(errors="replace")) > LONGEST_LABEL:
        mistakes.append(f"methods: the label {label[:20]!r}… is longer than {LONGEST_LABEL} bytes")
    grid = one.get("learning_rates")
    if isinstance(grid, list) and isinstance(rates, list) and len(grid) != len(rates):
        mistakes.append(
            f"methods.{label}: {len(grid)} learning rates where the plan has {len(rates)}; an equal search is as many for each"
        )
    return mistakes


def run_values(
    plan: Plan, contestant: Contestant, learning_rate: float, seed: int | None, budget: int | None, output: Path
) -> dict[str, Any]:
    """The configuration of one training run of the plan. `seed` None is the search's: all at `training.seed`."""
    training = dict(plan.run["training"]) | {"learning_rate": learning_rate}
    if budget is not None:
        training["max_steps"] = budget
    if seed is not None:
        training |= {f"{part}_seed": seed for part in plan.vary}
    method = MethodConfig(name=contestant.method, **contestant.options).model_dump(mode="json")
    return {**plan.run, "method": method, "training": training, "output": str(output)}
