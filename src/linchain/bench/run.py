"""The measurement from its checks to its result: counts, times, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console

from linchain.bench import machine
from linchain.bench.contestants import Contestant, choose
from linchain.bench.step import Trainee
from linchain.bench.timing import of_rounds, quartiles, ratio, time_rounds
from linchain.bench.workload import Batch, Workload, build_base, draw_batch
from linchain.errors import LinchainError
from linchain.evaluation.progress import evaluation_progress

GPU_ROUNDS, GPU_STEPS, GPU_WARM_UPS = 4, 5, 5
# on a CPU: as many rounds as fit into this time, within these bounds
TIMING_SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 60, 5, 20


@dataclass(frozen=True)
class Plan:
    """How a workload is measured.

    Attributes:
        only: names of contestants beside the floors; None: all that make sense.
        rounds: how many; None: 4 on a GPU, on a CPU as many as fit into a minute, 5 to 20.
        steps: steps in a row that each contestant takes in a round; None: 5 on a GPU, 1 on a CPU.
        threads: cores to compute with; None: as torch has it.
    """

    only: Sequence[str] | None = None
    rounds: int | None = None
    steps: int | None = None
    threads: int | None = None


def check(workload: Workload, plan: Plan) -> list[Contestant]:
    """The contestants, each put once on the model without data.

    Raises:
        LinchainError: For whatever would go wrong later.
    """
    workload.check()
    machine.check_threads(plan.threads)
    for option, value in (("--rounds", plan.rounds), ("--steps-per-round", plan.steps)):
        if value is not None and value < 1:
            raise LinchainError(f"{option} must be at least 1, got {value}")
    if workload.device == "cuda" and not torch.cuda.is_available():
        raise LinchainError("--device cuda: there is no GPU here that torch can use")
    contestants = choose(plan.only, workload)
    base = build_base(workload, meta=True)
    for contestant in contestants:
        try:
            contestant.build(base, workload)
        except LinchainError as error:
            raise LinchainError(f"{contestant.name}: {error}") from None
    return contestants


def measure(workload: Workload, plan: Plan, console: Console) -> dict[str, Any]:
    """Everything that the table shows and the JSON file holds; bars go to `console`.

    Raises:
        LinchainError: For what cannot be measured; nothing was then measured.
    """
    contestants = check(workload, plan)
    with machine.pinned(plan.threads):
        environment = machine.describe(workload.device)
        base = build_base(workload)
        batch = draw_batch(workload, base.config)
        trainees, left_out, seconds = _warmed_up(contestants, base, workload, batch, console)
        rounds, steps = _rounds(plan, workload, seconds)
        with evaluation_progress(console, "timing", rounds * len(trainees), "turns") as advance:
            times = time_rounds(trainees, rounds, steps, workload.device == "cuda", workload.seed, advance)
    return {
        "workload": asdict(workload) | {"tokens": workload.tokens},
        "rounds": rounds,
        "steps_per_round": steps,
        "environment": environment,
        "contestants": {
            contestant.name: _figures(contestant, times) for contestant in contestants if contestant.name in times
        },
        "left_out": left_out,
    }


def _warmed_up(
    contestants: list[Contestant], base: Any, workload: Workload, batch: Batch, console: Console
) -> tuple[list[Trainee], dict[str, str], float]:
    """The trainees after some steps each, the contestants that do not fit into memory, and the seconds of a step of all."""
    trainees, left_out, seconds = [], {}, 0.0
    with evaluation_progress(console, "warming up", len(contestants), "contestants") as advance:
        for contestant in contestants:
            try:
                trainee = Trainee(contestant, base, workload, batch)
                for _ in range(GPU_WARM_UPS if workload.device == "cuda" else 2):
                    began = time.perf_counter()
                    trainee.step()
            except torch.OutOfMemoryError:
                left_out[contestant.name] = "out of memory"
                torch.cuda.empty_cache()
            else:
                seconds += time.perf_counter() - began
                trainees.append(trainee)
            advance(1)
    return trainees, left_out, seconds


def _rounds(plan: Plan, workload: Workload, seconds: float) -> tuple[int, int]:
    """Rounds, and steps in each, where a step of all contestants takes `seconds`."""
    cuda = workload.device == "cuda"
    steps = plan.steps or (GPU_STEPS if cuda else 1)
    fitting = min(max(int(TIMING_SECONDS / (seconds * steps)), LEAST_ROUNDS), MOST_ROUNDS)
    return plan.rounds or (GPU_ROUNDS if cuda else fitting), steps


def _figures(contestant: Contestant, times: dict[str, list[list[float]]]) -> dict[str, Any]:
    own = times[contestant.name]
    return {
        "title": contestant.title,
        "seconds": own,
        "seconds_per_step": quartiles(of_rounds(own)),
        "ratios": {rival: ratio(own, others) for rival, others in times.items()},
    }
