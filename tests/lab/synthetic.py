"""Finished comparisons that nobody trained: folders as `linchain compare` leaves them, with drawn figures in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linchain.evaluation.scores import score
from linchain.files import write_json, write_jsonl, write_text
from linchain.lab.plan import build_plan
from linchain.lab.trials import SPLITS, Comparison, Trial

TARGETS = {"target_modules": ["q_proj", "v_proj"]}
METHODS = [
    "lora",
    "rslora",
    "moslora",
    "linchain",
    "linchain-orthogonal",
    {"name": "linchain", "label": "LinChain-2-8", "r": 8, "chain_widths": [8, 16, 8]},
    {"name": "bone-col", "r": 16},
    "full",
]
RATES = [1e-4, 3e-4, 1e-3, 3e-3]
ENVIRONMENT = {
    "versions": {"python": "3.11.2", "linchain": "0.1.0", "torch": "2.13.0", "peft": "0.21.2"},
    "platform": "Linux-6.1-x86_64",
    "devices": ["cpu"],
    "threads": 1,
    "commit": "54bd2580c2f1",
    "model": {"config.json": "0" * 64, "model.safetensors": "1" * 64},
    "data": {"train": {"records": 2000, "sha256": "2" * 64}, "test": {"records": 200, "sha256": "3" * 64}},
}
# how good a contestant is, and where its best learning rate lies
SKILL = {
    "lora": (0.62, 1e-3),
    "rslora": (0.64, 3e-4),
    "moslora": (0.63, 1e-3),
    "linchain": (0.58, 3e-3),
    "linchain-orthogonal": (0.66, 1e-3),
    "LinChain-2-8": (0.55, 3e-3),
    "bone-col": (0.71, 1e-4),
    "full": (0.70, 1e-4),
}
Rows = Callable[["np.random.Generator", float, int], list[dict[str, Any]]]


def answers(generator: np.random.Generator, skill: float, n: int) -> list[dict[str, Any]]:
    """Generated answers to word problems; the same problems are hard for everyone."""
    hard = np.random.default_rng(5).random(n)
    rows = []
    for index in range(n):
        correct = bool(skill + 0.25 * generator.standard_normal() > hard[index])
        said = 3 * index if correct else 3 * index + int(generator.integers(1, 9))
        rows.append(
            {
                "id": index,
                "prompt": f"Tom has {index} boxes with 3 apples each. How many apples are there?\n\n### Response:\n",
                "generated": f"There are {index} boxes, so 3 * {index} = {said}. The answer is {said}.",
                "extracted": str(said),
                "answer": str(3 * index),
                "correct": correct,
            }
        )
    return rows


def of_tasks(generator: np.random.Generator, skill: float, n: int) -> list[dict[str, Any]]:
    """The same problems under the names of two tasks that the papers have figures for."""
    rows = answers(generator, skill, n)
    return [{**row, "task": "gsm8k" if index % 2 else "addsub"} for index, row in enumerate(rows)]


def ratings(generator: np.random.Generator, skill: float, n: int) -> list[dict[str, Any]]:
    """A regression's rows."""
    labels = np.random.default_rng(6).uniform(0, 5, n)
    guesses = labels + (1.5 - skill) * generator.standard_normal(n)
    pairs = zip(labels.tolist(), guesses.tolist(), strict=True)
    return [
        {"id": index, "label": label, "prediction": guess, "loss": (label - guess) ** 2}
        for index, (label, guess) in enumerate(pairs)
    ]


def comparison(
    folder: Path,
    rows: Rows = answers,
    metric: str = "exact_match",
    methods: list[Any] = METHODS,
    skill: Mapping[str, tuple[float, float]] = SKILL,
    failing: tuple[str, float] | None = ("bone-col", 3e-3),
    diagnostics: bool = True,
    n: int = 200,
    **plan: Any,
) -> Comparison:
    """A comparison in `folder` with the runs of a whole plan; `failing` is the contestant and rate that diverged."""
    task = "causal_lm" if metric in ("exact_match", "loss") else "sequence_classification"
    values: dict[str, Any] = {
        "task": task,
        "model": "starter",
        "data": {"train": "starter:train", "validation_size": 100, "test": "starter:test"},
        "training": {"max_steps": None if plan.get("budgets") else 120, "batch_size": 8}
        | ({"diagnostics_steps": 40} if diagnostics else {}),
        "evaluation": {"metric": metric},
        "methods": methods,
        "options": TARGETS,
        "learning_rates": RATES,
        "seeds": 3,
        "output": str(folder),
        **plan,
    }
    made = Comparison(build_plan(values))
    write_text(made.plan_file, made.dump_plan())
    for stage in ("search", "final", "cost"):  # the later ones are there once the earlier ones are done
        for number, trial in enumerate(one for one in made.trials if one.stage == stage):
            if stage == "search" and (trial.contestant, trial.learning_rate) == failing:
                write_json(trial.files.error, {"error": "the loss is not a number at step 17", "diverged": True})
            else:
                run(made, trial, number, rows, metric, skill.get(trial.contestant, (0.6, 1e-3)), n)
    return made


def run(
    made: Comparison, trial: Trial, number: int, rows: Rows, metric: str, skill: tuple[float, float], n: int
) -> None:
    """Writes what a finished run leaves; `number` is the seed of its figures."""
    generator = np.random.default_rng([number, len(trial.contestant)])
    best, rate = skill
    reached = best - 0.12 * abs(math.log10(trial.learning_rate / rate))
    scores: dict[str, list[Any]] = {}
    if trial.stage != "cost":
        split = "validation" if trial.stage == "search" else "test"
        predicted = rows(generator, reached, n if split == "test" else n // 2)
        write_jsonl(trial.files.predictions / f"{SPLITS[split]}.jsonl", predicted)
        scores[SPLITS[split]] = [vars(one) for one in score(metric, predicted)]
        write_jsonl(trial.files.metrics, _losses(generator, reached))
        if made.plan.run["training"]["diagnostics_steps"] and trial.stage == "final":
            write_jsonl(trial.files.diagnostics, _diagnostics(generator, trial.contestant))
    size = 1 + 0.3 * len(trial.contestant) / 10
    result = {
        "parameters": {"trainable": int(30_000 * size**4), "total": 730_000},
        "steps": 120,
        "scores": scores,
        "seconds": 42.0,
        "resumed_from_step": None,
        "cost": {
            "seconds_per_step": 0.04 * size * (1 + 0.05 * generator.random()),
            "peak_memory_bytes": int(4e8 * size * (1 + 0.01 * generator.random())),
            "memory_before_bytes": int(3e8),
            "device": "cpu",
        },
    }
    write_json(trial.files.environment, ENVIRONMENT)
    write_json(trial.files.result, result)


def _losses(generator: np.random.Generator, skill: float) -> list[dict[str, Any]]:
    def at(step: int) -> float:
        return 0.4 + (1 - skill) + 2 * math.exp(-step * skill / 25) + 0.03 * generator.standard_normal()

    train = [{"step": step, "loss": at(step), "learning_rate": 1e-4} for step in range(10, 121, 10)]
    return train + [{"step": step, "eval_loss": at(step) + 0.05} for step in (40, 80, 120)]


def _diagnostics(generator: np.random.Generator, contestant: str) -> list[dict[str, Any]]:
    """Four modules at four steps. Factors only where the method has a chain, none at all for full fine-tuning."""
    chain = {"moslora": ["W1"], "linchain": ["W1", "W2", "W3"], "LinChain-2-8": ["W1", "W2"]}.get(contestant, [])
    if contestant == "linchain-orthogonal":
        chain = ["W1", "W2", "W3"]
    flat = 0.2 if contestant != "linchain" else 0.5
    rows = []
    for step in (0, 40, 80, 120):
        for module in ("0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"):
            spectrum = [] if step == 0 else np.exp(-(flat + 20 / (20 + step)) * np.arange(16)).tolist()
            row: dict[str, Any] = {
                "step": step,
                "module": f"model.layers.{module}",
                "rank": None if contestant == "full" else 16,
                "entropy_rank": 0.0 if step == 0 else 4 + step / 40 + generator.random(),
                "stable_rank": 0.0 if step == 0 else 1.5 + step / 100,
                "participation_ratio": 0.0 if step == 0 else 2 + step / 60,
                "norm": step / 100,
                "spectrum": spectrum,
            }
            if contestant not in ("full", "bone-col"):
                names = ["A", *chain, "B"]
                row["factors"] = {name: np.exp(-flat * 0.2 * np.arange(16)).tolist() for name in names if name != "B"}
                row["factors"]["B"] = [0.0] * 16 if step == 0 else spectrum
                row["factors"]["AW"] = np.exp(-flat * (1 + len(chain)) * 0.1 * np.arange(16)).tolist()
                row["gradients"] = {
                    name: (0.0 if step == 0 and name != "B" else math.exp(-step / 60) * (1 + index / 3))
                    for index, name in enumerate(names)
                }
                row["folding_error"] = 1e-7
            rows.append(row)
    return rows
