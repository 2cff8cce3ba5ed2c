"""Asks what a run, an adapter folder or a model name stands for the tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from linchain.errors import LinchainError
from linchain.evaluation.harness import HarnessScore, load_tasks, run_tasks
from linchain.files import write_jsonl
from linchain.training.evaluate import (
    Question,
    load_target,
    predictions_file,
    resolve,
    settings_for,
    target_tokenizer,
)

# What of a question the harness's tasks leave open; data, prompts, decoding and metrics are theirs.
OPTIONS = ("model.dtype", "evaluation.limit", "evaluation.batch_size")


@dataclass(frozen=True)
class HarnessAnswer:
    scores: list[HarnessScore]
    predictions: Path


def evaluate_with_harness(question: Question, tasks: Sequence[str], include: str | None = None) -> HarnessAnswer:
    """Scores the target on the harness's `tasks` (and groups of them), and writes one row an example.

    `include` is a folder with definitions of more tasks. Raises LinchainError, before any weights are loaded, for options
    that the tasks decide themselves, unknown tasks, data that cannot be had, and targets that are no language models.
    """
    for key in question.options:
        if key not in OPTIONS:
            name = "data" if key == "data.test" else key.rpartition(".")[2].replace("_", "-")
            raise LinchainError(
                f"--{name} does not go with --harness: its tasks have their own data, prompts and metrics"
            )
    target = resolve(question)
    # a limit of the run's own would shorten the harness's tasks without a word
    config = settings_for(target, replace(question, options={"evaluation.limit": None, **question.options}))
    if config.task != "causal_lm":
        raise LinchainError(f"--harness asks causal language models; {question.target} is a sequence classifier")
    file = predictions_file(question, target, tasks, "harness")
    loaded = load_tasks(tasks, include)
    tokenizer = target_tokenizer(target, config)
    model = load_target(target, config, tokenizer)
    scores, rows = run_tasks(loaded, model, tokenizer, config.evaluation.batch_size, config.evaluation.limit)
    write_jsonl(file, rows)
    return HarnessAnswer(scores, file)
