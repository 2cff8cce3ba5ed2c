"""The figures that this project promises for a CPU, each with what was found: `linchain bench` at fixed sizes on one core.

    python benchmarks/performance.py runs/performance

Writes OUT/<size>.json, everything that was measured, and OUT/performance.md, which is also printed. Takes about half an hour;
nothing else should run on the machine. What was measured already is read from OUT, not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from linchain.bench import run as bench
from linchain.bench.report import about
from linchain.bench.run import Plan, measure
from linchain.bench.workload import Workload
from linchain.ops import precision

LORAS = ("linchain", "linchain-n0", "peft-lora", "naive-linchain", "naive-moslora")
# what differs only over a bfloat16 base
FLAVOURS = ("linchain-autocast", "linchain-bf16", "peft-lora-autocast", "peft-lora-bf16")
BONES = ("bone-col", "bone-row", "bone-plain", "peft-bat", "peft-miss", "full")
# what --dry-run measures in place of the sizes below
TINY: dict[str, Any] = {"hidden": 64, "intermediate": 128, "heads": 2, "vocab": 64, "sequence_length": 16, "bone_r": 16}


@dataclass(frozen=True)
class Size:
    """A workload and who takes part in it."""

    workload: Workload
    only: Sequence[str]
    rounds: int
    steps: int = 1
    # False: no layer multiplies in float32 where the processor only emulates bfloat16
    widened: bool = True


SIZES = {
    "bfloat16": Size(Workload(sequence_length=1024), (*LORAS, *FLAVOURS), rounds=9),
    # what is left of that on a processor that only emulates bfloat16, when its adapted layers do not multiply in float32
    "bfloat16-products": Size(
        Workload(sequence_length=1024), ("linchain", "peft-lora", "naive-linchain"), rounds=5, widened=False
    ),
    "launch-bound": Size(Workload(hidden=256, sequence_length=128), (*LORAS, *FLAVOURS), rounds=30, steps=5),
    "float32": Size(Workload(sequence_length=1024, dtype="float32"), LORAS, rounds=15),
    "bone-bfloat16": Size(Workload(sequence_length=1024), BONES, rounds=7),
    "bone-float32": Size(Workload(sequence_length=1024, dtype="float32"), BONES, rounds=10),
    # as in a model of many layers, whose activations outweigh the logits
    "memory": Size(
        Workload(sequence_length=1024, layers=4),
        ("linchain", "peft-lora", "peft-lora-autocast", "bone-col", "peft-bat"),
        rounds=1,
    ),
}


@dataclass(frozen=True)
class Goal:
    """What a contestant is to stay below.

    Attributes:
        size: of `SIZES`.
        contestant, rival: whose figure, and by whose it is divided.
        at_most: the highest ratio that fulfils the goal.
        of: "time" or "memory", or "operations": added for each adapted module, not divided.
    """

    size: str
    contestant: str
    rival: str
    at_most: float
    of: str = "time"

    @property
    def text(self) -> str:
        return f"{self.size}: {self.of} of {self.contestant}" + (f" / {self.rival}" if self.rival else "")


GOALS = (
    Goal("bfloat16", "linchain", "peft-lora", 0.80),
    Goal("bfloat16", "linchain", "peft-lora-autocast", 0.87),
    Goal("bfloat16", "linchain", "peft-lora-bf16", 0.96),
    Goal("bfloat16", "linchain", "naive-linchain", 0.78),
    Goal("bfloat16", "linchain", "floor", 1.15),
    Goal("float32", "linchain", "floor", 1.15),
    Goal("launch-bound", "linchain", "peft-lora", 1.05),
    Goal("memory", "linchain", "peft-lora", 0.76, of="memory"),
    Goal("memory", "linchain", "peft-lora-autocast", 0.95, of="memory"),
    Goal("bone-bfloat16", "bone-col", "peft-bat", 0.45),
    Goal("bone-float32", "bone-col", "peft-bat", 0.45),
    Goal("memory", "bone-col", "peft-bat", 0.42, of="memory"),
    Goal("bone-bfloat16", "bone-col", "full", 1.0),
    Goal("bone-float32", "bone-col", "full", 1.0),
    Goal("bone-float32", "bone-row", "floor", 1.20),
    Goal("bone-bfloat16", "bone-plain", "peft-miss", 0.80),
    Goal("bone-float32", "bone-plain", "peft-miss", 0.80),
    Goal("float32", "linchain", "", 21, of="operations"),
)


def found(goal: Goal, contestants: dict[str, Any]) -> tuple[float | None, str]:
    """The figure that the goal is about, and the same with its quartiles, where it has any, for reading."""
    figures = contestants[goal.contestant]
    if goal.of == "time":
        ratio = figures["ratios"][goal.rival]
        return ratio["median"], f"{ratio['median']:.3f} [{ratio['q1']:.3f}–{ratio['q3']:.3f}]"
    if goal.of == "operations":
        added = figures["added_per_module"]["operations"]
        return added, f"{added:.1f}"
    own, rival = figures["peak_bytes"], contestants[goal.rival]["peak_bytes"]
    if own is None or rival is None:
        return None, "not measured"
    return own / rival, f"{own / rival:.3f} ({own / 2**20:.0f} / {rival / 2**20:.0f} MiB)"


def page(results: dict[str, dict[str, Any]]) -> str:
    """All goals with what was found, then all figures of each size, in Markdown."""
    lines = ["| goal | at most | found | met |", "|---|---|---|---|"]
    for goal in GOALS:
        value, text = found(goal, results[goal.size]["contestants"])
        met = "" if value is None else "yes" if value <= goal.at_most else "**no**"
        lines.append(f"| {goal.text} | {goal.at_most:g} | {text} | {met} |")
    for name, result in results.items():
        lines += ["", f"## {name}", "", *(f"- {line}" for line in about(result)), "", *_table(result)]
    return "\n".join(lines) + "\n"


def _table(result: dict[str, Any]) -> list[str]:
    contestants = result["contestants"]
    rivals = [name for name in ("floor", "peft-lora", "peft-bat") if name in contestants]
    columns = ["contestant", "ms", *(f"of {rival}" for rival in rivals), "peak MiB", "operations", "saved KiB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, figures in contestants.items():
        added, peak = figures["added_per_module"], figures["peak_bytes"]
        cells = [
            name,
            f"{1000 * figures['seconds_per_step']['median']:.1f}",
            *(found(Goal("", name, rival, 0), contestants)[1] for rival in rivals),
            "" if peak is None else f"{peak / 2**20:.1f}",
            *(("", "") if added is None else (f"{added['operations']:.1f}", f"{added['saved_bytes'] / 1024:.0f}")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def run(size: Size, console: Console, dry: bool) -> dict[str, Any]:
    """`linchain bench` on one core; `dry`: of a tiny model, in two rounds."""
    if dry:
        size = replace(size, workload=replace(size.workload, **TINY), rounds=2, steps=1)
    plan = Plan(size.only, size.rounds, size.steps, threads=1)
    if size.widened:
        return measure(size.workload, plan, console)
    with (
        mock.patch.object(precision, "MANY_TOKENS", sys.maxsize),
        # fresh processes know nothing of this
        mock.patch.object(bench, "peaks_in_fresh_processes", lambda names, *_: dict.fromkeys(names)),
    ):
        return measure(size.workload, plan, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--dry-run", action="store_true", help="the same with a tiny model: its figures mean nothing")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, size in SIZES.items():
        file = arguments.out / f"{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(run(size, Console(stderr=True), arguments.dry_run), indent=1) + "\n")
        results[name] = json.loads(file.read_text())
    text = page(results)
    (arguments.out / "performance.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
