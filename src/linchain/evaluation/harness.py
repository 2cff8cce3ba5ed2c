"""Tasks of lm-evaluation-harness by their names, on a model that is in memory: an adapter needs no export for them."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linchain.errors import LinchainError, first_line, nearest
from linchain.evaluation.scores import Z

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HarnessScore:
    """A metric of a task, or of a group of tasks, in the harness's own scale, over `n` examples.

    `filter` says how answers were read where a task has several ways of it. `stderr`, the harness's standard error, is None
    where it has none for the metric.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    shots: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, from the standard error."""
        return None if self.stderr is None else (self.value - Z * self.stderr, self.value + Z * self.stderr)


def load_tasks(names: Sequence[str], include: str | None = None) -> dict[str, Any]:
    """The harness's tasks, and groups of tasks, called `names`, with their data, as its `TaskManager.load` gives them;
    `include` is a folder with more of them.

    Raises LinchainError where the harness is not installed, has no such task, cannot get its data, or would run code that a
    model wrote or show it pictures.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise LinchainError("--harness needs lm-evaluation-harness: pip install 'linchain[harness]'")
    if include is not None and not Path(include).expanduser().is_dir():
        raise LinchainError(f"--harness-include {include}: there is no such folder")
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=Path(include).expanduser() if include else None)
    for name in names:
        if name not in manager.all_tasks:
            close = nearest(name, manager.all_tasks)
            hint = f"; did you mean {close!r}?" if close else "."
            raise LinchainError(f"--harness: unknown task {name!r}{hint} `lm-eval ls tasks` lists them")
    # some tasks shuffle their choices while they are loaded
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    found = [one for name in dict.fromkeys(names) for one in _load(manager, name)]
    try:
        loaded = manager.load(found)
    except ValueError as error:  # two of the names stand for the same task
        raise LinchainError(f"--harness: {first_line(error)}") from error
    for task in loaded["tasks"].values():  # as the harness's own command does
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return loaded


def _load(manager: Any, name: str) -> list[Any]:
    try:
        loaded = manager.load([name])
    except Exception as error:  # datasets, the Hub and the code of a task each raise their own kinds
        raise LinchainError(f"--harness: task {name!r} cannot be loaded: {first_line(error)}") from error
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            what = "runs code that the model writes" if getattr(task, "UNSAFE_CODE", False) else "shows pictures"
            raise LinchainError(f"--harness: task {task.task_name!r} {what}; use the harness itself for it")
    group = loaded["groups"].get(name)
    return [group] if group else list(loaded["tasks"].values())


def run_tasks(
    tasks: dict[str, Any], model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int, limit: int | None
) -> tuple[list[HarnessScore], list[dict[str, Any]]]:
    """Scores of what `load_tasks` gave, and one row an example (and filter), as the harness keeps them.

    `limit` takes the first so many examples of each task.
    """
    import lm_eval
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(DEFAULT_OTHER_SEED)  # some tasks sample their answers
    # tied weights were tied when they were loaded; doing it again, as HFLM does, fails under adapters that PEFT has tied
    model.tie_weights = lambda: None  # type: ignore[assignment]
    try:
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    finally:
        del model.tie_weights
    # not simple_evaluate: it looks the model up on the Hub and describes the machine by a dozen processes
    results = lm_eval.evaluate(wrapped, tasks, limit=limit)
    rows = [
        {"task": task, "id": sample.pop("doc_id"), **_plain(sample)}
        for task, samples in results["samples"].items()
        for sample in samples
    ]
    return _scores(results), rows


def _scores(results: dict[str, Any]) -> list[HarnessScore]:
    scores = []
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr = values.get(f"{metric}_stderr,{filter}")
            scores.append(
                HarnessScore(
                    task=task,
                    metric=metric,
                    filter=filter,
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, Real) else None,
                    n=values.get("sample_count", {}).get(
                        key, values["sample_len"]
                    ),  # a group's task may lack the metric
                    shots=results["n-shot"].get(task),
                )
            )
    return scores


def _plain(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as JSON can hold it, by the harness's own rule."""
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(sample, default=handle_non_serializable))
