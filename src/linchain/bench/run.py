"""The measurement from its checks to its result: counts, times, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console

from linchain.bench import gpu, machine
from linchain.bench.contestants import FLOOR, Contestant, adapted_modules, choose
from linchain.bench.counts import Counts, count
from linchain.bench.memory import peaks_in_fresh_processes, step_peak
from linchain.bench.step import Trainee
from linchain.bench.timing import of_rounds, quartiles, ratio, time_rounds
from linchain.bench.workload import Batch, Workload, build_base, draw_batch
from linchain.errors import LinchainError
from linchain.evaluation.progress import evaluation_progress

GPU_ROUNDS, GPU_STEPS, GPU_WARM_UPS = 4, 5, 5
CPU_WARM_UPS = 1  # after the step that is counted
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
        result = {
            "workload": asdict(workload) | _sizes(workload),
            "environment": machine.describe(workload.device),
            **_in_one_process(contestants, workload, plan, console),
        }
        if workload.device == "cpu":
            measured = result["contestants"]
            with evaluation_progress(console, "memory", len(measured), "fresh processes") as advance:
                peaks = peaks_in_fresh_processes(list(measured), workload, torch.get_num_threads(), advance)
            for name, reached in peaks.items():
                measured[name]["peak_bytes"] = reached
    return result


def _in_one_process(contestants: list[Contestant], workload: Workload, plan: Plan, console: Console) -> dict[str, Any]:
    """Counts and times, and on a GPU memory, of contestants that share the base model and take turns."""
    cuda = workload.device == "cuda"
    base = build_base(workload)
    batch = draw_batch(workload, base.config)
    trainees, counts, left_out, seconds = _warmed_up(contestants, base, workload, batch, console)
    rounds, steps = _rounds(plan, workload, seconds)
    clocks = [gpu.clock()] if cuda else []
    with evaluation_progress(console, "timing", rounds * len(trainees), "turns") as advance:
        times = time_rounds(trainees, rounds, steps, cuda, workload.seed, advance)
    clocks += [gpu.clock()] if cuda else []
    measured = {}
    for trainee in trainees:
        figures = _figures(trainee, counts, times)
        if cuda:
            figures |= step_peak(trainee) | gpu.profiled(trainee, figures["seconds_per_step"]["median"])
        measured[trainee.name] = figures
    return {
        "rounds": rounds,
        "steps_per_round": steps,
        "clocks_mhz": clocks,
        "contestants": measured,
        "left_out": left_out,
    }


def _warmed_up(
    contestants: list[Contestant], base: Any, workload: Workload, batch: Batch, console: Console
) -> tuple[list[Trainee], dict[str, Counts], dict[str, str], float]:
    """The trainees after some steps, their counts, those that do not fit into memory, and the seconds of a step of all."""
    trainees: list[Trainee] = []
    counts: dict[str, Counts] = {}
    left_out: dict[str, str] = {}
    seconds = 0.0
    with evaluation_progress(console, "warming up", len(contestants), "contestants") as advance:
        for contestant in contestants:
            try:
                trainee = Trainee(contestant, base, workload, batch)
                counts[contestant.name] = count(trainee.forward, trainee.model)
                for _ in range(GPU_WARM_UPS if workload.device == "cuda" else CPU_WARM_UPS):
                    began = time.perf_counter()
                    trainee.step()
            except torch.OutOfMemoryError:
                left_out[contestant.name] = "out of memory"
                torch.cuda.empty_cache()
            else:
                seconds += time.perf_counter() - began
                trainees.append(trainee)
            advance(1)
    return trainees, counts, left_out, seconds


def _sizes(workload: Workload) -> dict[str, Any]:
    """The sizes as they came to be, in a workload's words."""
    config = workload.model_config()
    return {
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "vocab": config.vocab_size,
        "tokens": workload.tokens,
    }


def _rounds(plan: Plan, workload: Workload, seconds: float) -> tuple[int, int]:
    """Rounds, and steps in each, where a step of all contestants takes `seconds`."""
    cuda = workload.device == "cuda"
    steps = plan.steps or (GPU_STEPS if cuda else 1)
    fitting = min(max(int(TIMING_SECONDS / (seconds * steps)), LEAST_ROUNDS), MOST_ROUNDS)
    return plan.rounds or (GPU_ROUNDS if cuda else fitting), steps


def _figures(trainee: Trainee, counts: dict[str, Counts], times: dict[str, list[list[float]]]) -> dict[str, Any]:
    own, modules = times[trainee.name], len(adapted_modules(trainee.model))
    return {
        "title": trainee.title,
        "seconds": own,
        "seconds_per_step": quartiles(of_rounds(own)),
        "ratios": {rival: ratio(own, others) for rival, others in times.items()},
        "adapted_modules": modules,
        "counts": asdict(counts[trainee.name]),
        "added_per_module": counts[trainee.name].added_to(counts[FLOOR], modules) if modules else None,
    }
