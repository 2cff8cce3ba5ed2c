"""A workload of milliseconds."""

from __future__ import annotations

from typing import Any

from linchain.bench.contestants import CONTESTANTS
from linchain.bench.step import Trainee
from linchain.bench.workload import Workload, build_base, draw_batch

TINY: dict[str, Any] = {
    "hidden": 32,
    "intermediate": 64,
    "heads": 2,
    "vocab": 64,
    "sequence_length": 8,
    "r": 4,
    "bone_r": 8,
}


def trainees(workload: Workload, *names: str) -> list[Trainee]:
    """Contestants around one base model."""
    base = build_base(workload)
    batch = draw_batch(workload, base.config)
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    return [Trainee(known[name], base, workload, batch) for name in names]
