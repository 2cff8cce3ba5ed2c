"""In words, what a run does otherwise than a paper whose figures stand beside its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linchain import tasks
from linchain.errors import LinchainError
from linchain.tasks import protocols
from linchain.tasks.protocols import PAPER_LINCHAIN, Experiment
from linchain.tasks.published import GLUE_TEST_SIZES, TABLES
from linchain.tasks.records import TASK

Config = Mapping[str, Any]
ALL = "all training records"


def _steps(value: float) -> str:
    return f"{100 * value:g} % of the steps" if 0 < value < 1 else f"{value:g} steps"


# Choices that a protocol states one by one, each as words for its value.
_WORDS: dict[str, Callable[[Any], str]] = {
    "data.train_on_prompt": lambda value: "the loss on prompt and answer" if value else "the loss on the answer alone",
    "data.max_length": lambda value: (
        f"examples cut to {value:,} tokens" if value else "examples cut at the model's context"
    ),
    "training.warmup_steps": lambda value: f"a warm-up of {_steps(value)}" if value else "no warm-up",
    "training.lr_scheduler": lambda value: f"a {value.replace('_', ' ')} schedule",
    "training.weight_decay": lambda value: f"weight decay {value:g}",
    "training.max_grad_norm": lambda value: f"gradients clipped at {value:g}" if value else "no gradient clipping",
    "training.precision": lambda value: f"{value} steps",
    "training.keep_best": lambda value: (
        "the checkpoint of the lowest validation loss" if value else "the last checkpoint"
    ),
    "evaluation.scorer": lambda value: (
        "answers generated" if value == "generate" else "answers chosen by log-likelihood"
    ),
    "evaluation.num_beams": lambda value: "greedy decoding" if value == 1 else f"{value} beams",
    "evaluation.extraction": {
        "standard": "answers read by our rules",
        "paper": "answers read by its code's rules",
        "math_verify": "answers compared by value",
    }.__getitem__,
}


def departures(
    config: Config,
    protocol: str,
    searched: bool = False,
    tested: Mapping[str, int] | None = None,
    budget: int | None = None,
    contestants: Sequence[Config] = (),
) -> list[str]:
    """What the run of the resolved configuration `config` does otherwise than the paper of `protocol`, a phrase for each.

    Rank, scale and dropout are not among them: they are each method's own, as `linchain.tasks.published` has them.

    Args:
        config: a RunConfig as a mapping, or the sections of one that the runs of a comparison share.
        protocol: the name of a paper's protocol.
        searched: whether the learning rate was searched for each method, whatever `config` says of it.
        tested: how many test records there were, by task. Default: no numbers, and the tasks of `config`.
        budget: how many optimizer steps there were, where `config` does not say it.
        contestants: the options of the methods that were compared, where `config` has no method.

    Raises:
        LinchainError: for an unknown protocol, one that is no paper's, and one that has no classifier where `config` has.
    """
    chosen = protocols.get(protocol)
    if chosen.paper is None:
        raise LinchainError(f"protocol {protocol} is no paper's, so nothing departs from it")
    if config.get("task") == "sequence_classification":
        if chosen is not PAPER_LINCHAIN:
            raise LinchainError(f"protocol {protocol}: its paper has no classifier to depart from")
        return _from_glue(config, tested or {})
    known = {name for table in TABLES if table.protocol == protocol for name in table.values}
    tests = [task for task in (_named(tested) if tested else _tasks(config["data"]["test"])) if task.name in known]
    pairs = [
        *_model_and_data(config, chosen.paper, tests),
        *_targets(contestants or [config.get("method") or {}], chosen.paper),
        *_optimization(config, chosen.choices, searched, budget),
        *(
            (words(chosen.choices[key]), words(_value(config, key)))
            for key, words in _WORDS.items()
            if key in chosen.choices
        ),
        *_answer_lengths(config, chosen.paper, tests),
    ]
    return [
        *(f"{theirs} in the paper, {ours} here" for theirs, ours in pairs if theirs != ours),
        *_test_sizes(chosen.paper, tests, tested or {}),
        *chosen.paper.always,
    ]


def _from_glue(config: Config, tested: Mapping[str, int]) -> list[str]:
    model, amount = config["model"]["name"], _amount(config)
    found = [] if Path(model).name == "roberta-base" else [f"RoBERTa-base in the paper, {model} here"]
    if amount != ALL:
        found.append(f"{ALL} in the paper, {amount} here")
    found.append("the paper states no learning rate, schedule, length of training or target modules for GLUE")
    for task in _named(tested):
        printed, ours = GLUE_TEST_SIZES.get(task.name), tested[task.name]
        if printed not in (None, ours, round(ours, -2)):  # most are rounded
            found.append(f"{printed:,} test examples of {task.title} by the paper's text, {ours:,} here")
    return found


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def _named(names: Iterable[str]) -> list[tasks.Task]:
    """The tasks among `names`, which may hold others, such as that of a mean."""
    return [tasks.get(name) for name in names if name in tasks.names()]


def _tasks(sources: Sequence[str] | None) -> list[tasks.Task]:
    return [tasks.get(source.removeprefix(TASK)) for source in sources or () if source.startswith(TASK)]


def _model_and_data(config: Config, paper: Experiment, tests: Sequence[tasks.Task]) -> list[tuple[str, str]]:
    name, sources = config["model"]["name"], config["data"]["train"] or ()
    pairs = [(paper.model, paper.model if name in paper.hub else name)]
    if expected := {paper.train[task.family] for task in tests if task.family in paper.train}:
        theirs = " and ".join(task.title for task in _named(sorted(expected)))
        pairs.append((f"training on {theirs}", f"training on {_sources(sources)}"))
    return [*pairs, (ALL, _amount(config))]


def _amount(config: Config) -> str:
    """How much of the training data is learned from; a limit that its tasks do not reach is none."""
    sources, limit = config["data"]["train"] or (), config["data"]["limit"]
    read = _tasks(sources)
    whole = sum(task.splits["train"].records for task in read) if len(read) == len(sources) else math.inf
    return ALL if limit is None or limit >= whole else f"the first {limit:,}"


def _sources(sources: Sequence[str]) -> str:
    return ", ".join(
        tasks.get(source.removeprefix(TASK)).title if source.startswith(TASK) else Path(source).name
        for source in sources
    )


def _targets(methods: Sequence[Config], paper: Experiment) -> list[tuple[str, str]]:
    """The adapted modules; nothing where no method says them."""
    given = (options.get("target_modules") for options in methods)
    ours = sorted({one if isinstance(one, str) else ", ".join(sorted(one)) for one in given if one})
    theirs = ", ".join(sorted(paper.target_modules))
    return [(f"adapters on {theirs}", f"adapters on {' or '.join(ours)}")] if ours else []


def _optimization(config: Config, choices: Config, searched: bool, budget: int | None) -> list[tuple[str, str]]:
    training = config["training"]
    batch = choices["training.batch_size"] * choices["training.gradient_accumulation_steps"]
    steps, rate = budget or training["max_steps"], f"learning rate {training['learning_rate']:g} for all methods"
    return [
        (
            f"learning rate {choices['training.learning_rate']:g} for all methods",
            "each method's own, searched for," if searched else rate,
        ),
        (_epochs(choices["training.epochs"]), f"{steps:,} steps" if steps else _epochs(training["epochs"])),
        (f"batches of {batch}", f"batches of {training['batch_size'] * training['gradient_accumulation_steps']}"),
    ]


def _epochs(number: float) -> str:
    return f"{number:g} epoch{'' if number == 1 else 's'}"


def _answer_lengths(config: Config, paper: Experiment, tests: Sequence[tasks.Task]) -> list[tuple[str, str]]:
    asked = config["evaluation"]["max_new_tokens"]
    lengths = {
        (paper.max_new_tokens[task.family], asked or task.max_new_tokens)
        for task in tests
        if task.family in paper.max_new_tokens
    }
    return [
        (f"answers of up to {theirs} tokens", f"answers of up to {ours} tokens") for theirs, ours in sorted(lengths)
    ]


def _test_sizes(paper: Experiment, tests: Sequence[tasks.Task], tested: Mapping[str, int]) -> Iterable[str]:
    for task in tests:
        size = paper.test_sizes.get(task.name, task.splits["test"].records)
        if tested.get(task.name, size) != size:
            yield f"{size:,} problems in the test set of {task.title}, {tested[task.name]:,} of them here"
