"""Protocols: named sets of choices that stand below a configuration's keys, and what else is known of a paper's experiment.

A key that the configuration gives wins over its protocol, and the protocol over the default. What a protocol says nothing
about (the model, the data, the method and its options) is the configuration's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from linchain.errors import LinchainError, unknown_name

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What a paper did that is no choice of a protocol, but sets a run apart from it.

    Attributes:
        model: as the paper names it.
        hub: what that is on the Hub.
        train: the training task for each family of test tasks.
        target_modules: what it adapted.
        max_new_tokens: of a generated answer, for each family of test tasks that it is known for.
        test_sizes: of the test tasks where the paper's set is not the task's own.
        always: what sets every run of ours apart, in words.
    """

    model: str
    hub: tuple[str, ...]
    train: Mapping[str, str]
    target_modules: tuple[str, ...]
    max_new_tokens: Mapping[str, int] = field(default_factory=dict)
    test_sizes: Mapping[str, int] = field(default_factory=dict)
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """A named set of choices.

    Attributes:
        name: as users write it.
        title: whose it is.
        about: when to use it, and what its source leaves open.
        choices: values by dotted key.
        paper: what the paper did beside that; None where the protocol is no paper's.
    """

    name: str
    title: str
    about: str
    choices: Values
    paper: Experiment | None = None


FAIR = Protocol(
    "fair",
    "an honest comparison",
    "The loss on answers only, greedy decoding, one schedule for every method and its last checkpoint, so that nothing is "
    "chosen but what is searched. The learning rate is to be searched for each method on the validation split.",
    {
        "data.train_on_prompt": False,
        "training.lr_scheduler": "linear",
        "training.warmup_steps": 0.05,
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.keep_best": False,
        "evaluation.scorer": "generate",
        "evaluation.extraction": "standard",
        "evaluation.num_beams": 1,
    },
)

PAPER_LINCHAIN = Protocol(
    "paper-linchain",
    "LinChain's paper",
    "As the code of LinChain (arXiv 2411.00039) has it for commonsense and arithmetic. One run, one learning rate for every "
    "method. For GLUE neither paper nor code states a protocol that fits its table. float16 needs a GPU.",
    {
        "model.dtype": "float16",
        "data.max_length": 256,
        "data.train_on_prompt": True,
        "data.validation_size": 120,
        "training.epochs": 3.0,
        "training.learning_rate": 3e-4,
        "training.batch_size": 4,
        "training.gradient_accumulation_steps": 4,
        "training.warmup_steps": 100.0,
        "training.lr_scheduler": "linear",
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.precision": "float16",
        "training.save_steps": 200,
        "training.eval_steps": 200,
        "training.keep_best": True,
        "evaluation.scorer": "generate",
        "evaluation.extraction": "paper",
        "evaluation.num_beams": 4,
    },
    Experiment(
        "LLaMA-3-8B-Instruct",
        ("meta-llama/Meta-Llama-3-8B-Instruct",),
        {"commonsense": "commonsense170k", "arithmetic": "math10k"},
        ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
        max_new_tokens={"commonsense": 32, "arithmetic": 256},
        always=("the lines of a prompt are indented by 16 spaces in the paper's code, and not here",),
    ),
)

PAPER_BONE = Protocol(
    "paper-bone",
    "Bone's paper",
    "As the code of Bone (arXiv 2409.15371 v3) has it for LLaMA-2-7B. One run, one learning rate for every method, at which "
    "LoRA is under-tuned. How GSM8K and MATH were asked and answers read is not stated: that is as by default here.",
    {
        "model.dtype": "bfloat16",
        "data.max_length": 512,
        "data.train_on_prompt": False,
        "data.limit": 395000,
        "training.epochs": 1.0,
        "training.learning_rate": 2e-5,
        "training.batch_size": 8,
        "training.gradient_accumulation_steps": 8,
        "training.warmup_steps": 0.0,
        "training.lr_scheduler": "cosine",
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.precision": "bfloat16",
        "training.gradient_checkpointing": True,
    },
    Experiment(
        "LLaMA-2-7B",
        ("meta-llama/Llama-2-7b-hf",),
        {"arithmetic": "metamathqa", "metamath": "metamathqa"},
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        test_sizes={"math": 5000},
        always=(
            "a prompt ends without a new line and an answer in a line <|EOT|> in the paper's code, but not here",
            "how the problems were asked and answers read is not stated in the paper",
        ),
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in (FAIR, PAPER_LINCHAIN, PAPER_BONE)}


def get(name: str) -> Protocol:
    """The protocol of this name; LinchainError for an unknown one, with the nearest match."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def with_defaults(values: Values, protocol: str) -> dict[str, Any]:
    """A configuration's `values` with the protocol's below them: a key that is there, even as null, stays as it is.

    Raises LinchainError where the protocol does not know the task of the configuration.
    """
    chosen = get(protocol)
    if chosen.paper is not None and values.get("task") == "sequence_classification":
        raise LinchainError(f"protocol {protocol} is for task causal_lm: the paper states none for a classifier")
    filled = {
        section: dict(part) if isinstance(part, Mapping) else {"name": part} if section == "model" else part
        for section, part in values.items()
    }
    for key, value in chosen.choices.items():
        section, name = key.split(".")
        part = filled.setdefault(section, {})
        if key == "data.validation_size" and isinstance(part, dict) and part.get("validation"):
            continue  # one or the other
        if isinstance(part, dict):
            part.setdefault(name, value)
    return filled
