"""diagnostics.jsonl: what becomes of each module's update ΔW, its factors and their gradients while a run trains.

One row a measured step and module:

    step                steps that have been made: 0 is the start
    module              its name in the base model
    rank                the most that the ranks can reach; null where ΔW is dense
    entropy_rank        of ΔW; null for a dense one whose smaller side is above 2048
    stable_rank, participation_ratio, norm
                        of ΔW, the norm being ‖ΔW‖_F
    spectrum            the largest singular values of ΔW, at most 64; absent where entropy_rank is null
    factors             singular values, at most 64 each, of A, W1 … Wn, B, and of A·W1…Wn ("AW") where there is a chain;
                        absent for methods that are no product
    gradients           ‖∂L/∂·‖_F of each trained factor on the batches of the step that follows, before clipping; DoRA has "m"
                        too, Bone's blocks are "B", MiSS's "D", a weight trained in full "W". Absent in the last step's rows
    folding_error       ‖ΔW' − ΔW‖_F / ‖ΔW‖_F of folding the chain into A in A's dtype; null where ΔW is 0; absent without a
                        chain
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linchain.diagnostics.updates import Part, Update, updates_of
from linchain.files import read_jsonl, write_jsonl
from linchain.training.run_folder import RunFolder

KEPT_VALUES = 64


class Diagnostics(TrainerCallback):
    """Writes diagnostics.jsonl at step 0, every `every` steps and at the last; reads the model and changes nothing.

    It measures between two steps: added after `StepCost`, it is no part of what a step is said to cost. Make it before the
    training, and before a checkpoint is loaded: it keeps what the updates are measured against.
    """

    def __init__(self, path: Path, every: int, model: Any) -> None:
        self.path, self.every = path, every
        self.updates = updates_of(model)
        self.rows: list[dict[str, Any]] = []  # of the step at hand, until their gradients are there
        self.gradients: list[GradientNorms] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # a resumed run measures anew from the step of its checkpoint on, whose gradients come with the next one
        kept = [row for row in read_jsonl(self.path) if row["step"] < state.global_step] if self.path.exists() else []
        write_jsonl(self.path, kept)
        self._measure(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._measure(state)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.rows:
            # float16's loss is scaled up for its gradients
            scaler = getattr(kwargs["optimizer"], "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            for row, gradients in zip(self.rows, self.gradients, strict=True):
                row["gradients"] = gradients.taken(scale)
            self._write()

    def _measure(self, state: TrainerState) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        if step % self.every and not last:
            return
        if not all(update.is_finite() for update in self.updates):
            return  # the loss will say so
        self.rows = [{"step": step, **measured(update)} for update in self.updates]
        if last:
            self._write()
        else:
            self.gradients = [GradientNorms(update.parts()) for update in self.updates]

    def _write(self) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        self.rows, self.gradients = [], []


class GradientNorms:
    """Takes the Frobenius norms of the next step's gradients as autograd leaves them: before anyone clips them."""

    def __init__(self, parts: list[Part]) -> None:
        self.names = [name for part in parts for name in part.names]
        self.norms: dict[str, Tensor] = {}
        trained = [part for part in parts if part.parameter.requires_grad]
        self.hooks = [part.parameter.register_post_accumulate_grad_hook(self._taking(part)) for part in trained]

    def _taking(self, part: Part) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            # called once for each forward pass of a step; the last one finds the sum
            assert parameter.grad is not None
            for name, gradient in part.split(parameter.grad).items():
                self.norms[name] = torch.linalg.vector_norm(gradient, dtype=torch.float32)

        return take

    def taken(self, scale: float) -> dict[str, float | None]:
        """The norms over `scale`, in the factors' order; None where a gradient overflowed. No more are taken."""
        for hook in self.hooks:
            hook.remove()
        return {name: _number(float(self.norms[name]) / scale) for name in self.names if name in self.norms}


@dataclass(frozen=True)
class StepMeans:
    """Means over the modules of a run at one step.

    Attributes:
        step: steps that have been made.
        modules: how many were measured.
        norm, entropy, stable, participation: of ΔW; the entropy rank is None where a module has none.
    """

    step: int
    modules: int
    norm: float | None
    entropy: float | None
    stable: float | None
    participation: float | None


def along_training(run: Path | str) -> list[StepMeans]:
    """The first, the middle and the last measured step of a run folder; none where it has no diagnostics."""
    file = RunFolder(run).diagnostics
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in read_jsonl(file) if file.is_file() else []:
        by_step.setdefault(row["step"], []).append(row)
    if not by_step:
        return []
    last = max(by_step)
    shown = sorted({min(by_step), min(by_step, key=lambda step: abs(step - last / 2)), last})
    keys = ("norm", "entropy_rank", "stable_rank", "participation_ratio")
    return [StepMeans(step, len(by_step[step]), *(_mean(by_step[step], key) for key in keys)) for step in shown]


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else math.fsum(values) / len(values)


def measured(update: Update) -> dict[str, Any]:
    """The row of one update, without step and gradients."""
    ranks = update.ranks()
    row: dict[str, Any] = {
        "module": update.name,
        "rank": update.rank,
        "entropy_rank": _number(ranks.entropy),
        "stable_rank": _number(ranks.stable),
        "participation_ratio": _number(ranks.participation),
        "norm": _number(ranks.norm),
    }
    if ranks.values is not None:
        row["spectrum"] = _largest(ranks.values)
    if factors := update.factors():
        row["factors"] = {name: _largest(torch.linalg.svdvals(factor)) for name, factor in factors.items()}
        if "AW" in factors:
            row["folding_error"] = _number(update.folding_error())
    return row


def _largest(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values[:KEPT_VALUES].tolist()]


def _number(value: float | None) -> float | None:
    """With 6 significant digits; None for what is no number in JSON."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
