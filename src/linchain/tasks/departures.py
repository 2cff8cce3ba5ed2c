"""In words, what a run does otherwise than a paper whose figures stand beside its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linchain import methods, tasks
from linchain.errors import LinchainError
from linchain.tasks import protocols
from linchain.tasks.protocols import Experiment, Protocol
from linchain.tasks.published import TABLES
from linchain.tasks.records import TASK

Config = Mapping[str, Any]


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
    config: Config, protocol: str, searched: bool = False, tested: Mapping[str, int] | None = None
) -> list[str]:
    """What the run of the resolved configuration `config` does otherwise than the paper of `protocol`, a phrase for each.

    Args:
        config: a RunConfig as a mapping, or the sections of one that the runs of a comparison share.
        protocol: the name of a paper's protocol.
        searched: whether the learning rate was searched for each method, whatever `config` says of it.
        tested: how many test records there were, by task.

    Raises:
        LinchainError: for an unknown protocol, or one that is no paper's.
    """
    chosen = protocols.get(protocol)
    if chosen.paper is None:
        raise LinchainError(f"protocol {protocol} is no paper's, so nothing departs from it")
    if config.get("task") == "sequence_classification":
        return _from_glue(config)
    pairs = [
        *_model_and_data(config, chosen.paper),
        *_optimization(config, chosen.choices, searched),
        *(
            (words(chosen.choices[key]), words(_value(config, key)))
            for key, words in _WORDS.items()
            if key in chosen.choices
        ),
        *_answer_lengths(config),
        *_test_sizes(chosen, tested or {}),
    ]
    return [f"{theirs} in the paper, {ours} here" for theirs, ours in pairs if theirs != ours]


def _from_glue(config: Config) -> list[str]:
    model = config["model"]["name"]
    found = [] if model.endswith("roberta-base") else [f"RoBERTa-base in the paper, {model} here"]
    return [
        *found,
        "the paper states no learning rate, schedule or length of training for GLUE",
        "the paper's code runs another model than the paper names (DeBERTa-v3-base with rank 8)",
        "the paper does not say which split of each task it tests on",
    ]


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def _model_and_data(config: Config, paper: Experiment) -> list[tuple[str, str]]:
    name = config["model"]["name"]
    expected = {paper.train[task.family] for task in _tasks(config["data"]["test"]) if task.family in paper.train}
    pairs = [(paper.model, paper.model if name in paper.hub else name)]
    if expected:
        theirs = " and ".join(sorted(tasks.get(task).title for task in expected))
        pairs.append((f"training on {theirs}", f"training on {_sources(config['data']['train'])}"))
    return pairs + _dropout(config.get("method"), paper)


def _tasks(sources: Sequence[str] | None) -> list[tasks.Task]:
    return [tasks.get(source.removeprefix(TASK)) for source in sources or () if source.startswith(TASK)]


def _sources(sources: Sequence[str]) -> str:
    return ", ".join(
        tasks.get(source.removeprefix(TASK)).title if source.startswith(TASK) else Path(source).name
        for source in sources
    )


def _dropout(method: Config | None, paper: Experiment) -> list[tuple[str, str]]:
    """The adapters' dropout, for methods that have one; nothing where `config` names no method."""
    if not method or "lora_dropout" not in methods.get(method["name"]).options:
        return []
    return [(f"dropout {paper.lora_dropout:g}", f"dropout {method.get('lora_dropout', 0.0):g}")]


def _optimization(config: Config, choices: Config, searched: bool) -> list[tuple[str, str]]:
    training = config["training"]
    batch = choices["training.batch_size"] * choices["training.gradient_accumulation_steps"]
    steps, rate = training["max_steps"], f"learning rate {training['learning_rate']:g} for all methods"
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


def _answer_lengths(config: Config) -> list[tuple[str, str]]:
    """A task's own length is the paper's."""
    asked = config["evaluation"]["max_new_tokens"]
    own = {task.max_new_tokens for task in _tasks(config["data"]["test"]) if task.metric == "exact_match"}
    return [
        (f"answers of up to {length} tokens", f"up to {asked}") for length in sorted(own) if asked not in (None, length)
    ]


def _test_sizes(protocol: Protocol, tested: Mapping[str, int]) -> list[tuple[str, str]]:
    """Of the tasks that the paper has a figure for."""
    assert protocol.paper is not None
    known = {name for table in TABLES if table.protocol == protocol.name for name in table.values}
    pairs = []
    for task in (tasks.get(name) for name in tested if name in known):
        size = protocol.paper.test_sizes.get(task.name, task.splits["test"].records)
        if size != tested[task.name]:
            pairs.append((f"{size:,} test problems of {task.title}", f"{tested[task.name]:,}"))
    return pairs
