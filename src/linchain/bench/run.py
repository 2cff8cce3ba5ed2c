"""The measurement from its checks to its result: counts, times, memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console

from linchain.bench import gpu, machine
from linchain.bench.contestants import FLOOR, FLOOR_AGAIN, Contestant, adapted_modules, choose
from linchain.bench.counts import Counts, count
from linchain.bench.memory import peaks_in_fresh_processes, step_peak
from linchain.bench.step import Trainee, within_memory
from linchain.bench.timing import of_rounds, quartiles, ratio, take_steps, time_rounds
from linchain.bench.workload import Workload, build_base, draw_batch
from linchain.errors import LinchainError
from linchain.evaluation.progress import evaluation_progress

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Pace:
    """What a device's measurement needs.

    Attributes:
        warm_ups: steps of each contestant before anything is timed, at least one.
        steps: in a row in each round.
        least_rounds, most_rounds: bounds of the rounds.
        seconds: what the rounds are to fit into.
        beside: what of that goes to anything else, in steps of all contestants.
    """

    warm_ups: int
    steps: int
    least_rounds: int
    most_rounds: int
    seconds: float
    beside: int = 0


PACES = {
    "cpu": Pace(warm_ups=2, steps=1, least_rounds=5, most_rounds=20, seconds=60),
    "cuda": Pace(warm_ups=5, steps=5, least_rounds=4, most_rounds=4, seconds=0),
}


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
        LinchainError: For what cannot be measured, and where there is too little memory for the frozen model.
    """
    contestants = check(workload, plan)
    with machine.pinned(plan.threads):
        environment = machine.describe(workload.device)
        trainees = build(contestants, workload)
        result = in_one_process(trainees, workload, plan, console)
        del trainees  # what they hold is left to the fresh processes
        if workload.device == "cpu":
            measured = result["contestants"]
            with evaluation_progress(console, "memory", len(measured), "fresh processes") as advance:
                peaks = peaks_in_fresh_processes(list(measured), workload, torch.get_num_threads(), advance)
            for name, reached in peaks.items():
                measured[name]["peak_bytes"] = reached
    return {"workload": asdict(workload) | _sizes(workload), "environment": environment, **result}


def build(contestants: Sequence[Contestant], workload: Workload) -> list[Trainee]:
    """The contestants around one base model, with one batch.

    Raises:
        LinchainError: Where there is too little memory for the base.
    """
    try:
        base = build_base(workload)
        batch = draw_batch(workload, base.config)
    except torch.OutOfMemoryError:
        raise _too_large("the base model") from None
    return [Trainee(contestant, base, workload, batch) for contestant in contestants]


def in_one_process(
    trainees: Sequence[Trainee], workload: Workload, plan: Plan, console: Console, pace: Pace | None = None
) -> dict[str, Any]:
    """Counts and times, and on a GPU memory and kernels, of trainees that take turns.

    Args:
        trainees: the floors among them; those that do not fit into the GPU's memory are left out.
        workload: the one that they have a batch of.
        plan, console: as for `measure`.
        pace: the device's own by default.

    Raises:
        LinchainError: Where there is too little memory for a floor.
    """
    pace = pace or PACES[workload.device]
    cuda = workload.device == "cuda"
    counts, seconds_of_all = _warm_up(trainees, pace, cuda, console)
    _require_floors(counts)
    taking_part = [trainee for trainee in trainees if trainee.name in counts]
    steps = plan.steps or pace.steps
    fitting = int((pace.seconds / seconds_of_all - pace.beside) / steps)
    rounds = plan.rounds or min(max(fitting, pace.least_rounds), pace.most_rounds)
    clocks = [gpu.clock()] if cuda else []
    with evaluation_progress(console, "timing", rounds * len(taking_part), "turns") as advance:
        times = time_rounds(taking_part, rounds, steps, cuda, workload.seed, advance)
    clocks += [gpu.clock()] if cuda else []
    _require_floors(times)
    left_out = {trainee.name: OUT_OF_MEMORY for trainee in trainees if trainee.name not in times}
    measured = {}
    for trainee in taking_part:
        if trainee.name in times:
            measured[trainee.name] = figures = _figures(trainee, counts, times)
            if cuda:
                figures |= _gpu_figures(trainee, figures["seconds_per_step"]["median"], left_out)
    about = {"rounds": rounds, "steps_per_round": steps, "clocks_mhz": clocks, "left_out": left_out}
    return about | {"contestants": measured}


def _too_large(what: str) -> LinchainError:
    return LinchainError(f"{what}: {OUT_OF_MEMORY}. Use a smaller --batch-size, --sequence-length or --layers")


def _require_floors(names: Collection[str]) -> None:
    """Everything is compared with them."""
    for floor in (FLOOR, FLOOR_AGAIN):
        if floor not in names:
            raise _too_large(floor)


def _warm_up(trainees: Sequence[Trainee], pace: Pace, cuda: bool, console: Console) -> tuple[dict[str, Counts], float]:
    """Counts of those that fit into memory, and the seconds that a step of all of them takes."""
    counts: dict[str, Counts] = {}
    total = 0.0
    with evaluation_progress(console, "warming up", len(trainees), "contestants") as advance:
        for trainee in trainees:
            found = within_memory(trainee, partial(_first_steps, trainee, pace.warm_ups, cuda))
            if found is not None:
                counts[trainee.name] = found[0]
                total += found[1]
            advance(1)
    return counts, total


def _first_steps(trainee: Trainee, warm_ups: int, cuda: bool) -> tuple[Counts, float]:
    """Counts, and the seconds of the last warm-up; the first, in which kernels are tried out, does not count."""
    last = take_steps(trainee, warm_ups, cuda)[-1]
    return count(trainee.forward, trainee.model), last


def _gpu_figures(trainee: Trainee, seconds: float, left_out: dict[str, str]) -> dict[str, Any]:
    """Memory and kernels; `left_out` gets the reason why one is missing, rather than that all figures are lost."""
    figures: dict[str, Any] = {}
    works = {"memory": partial(step_peak, trainee), "kernels": partial(gpu.profiled, trainee, seconds)}
    for what, work in works.items():
        try:
            figures |= work()
        except RuntimeError as error:
            full = isinstance(error, torch.OutOfMemoryError)
            left_out[f"{trainee.name}, {what}"] = OUT_OF_MEMORY if full else str(error).partition("\n")[0]
    return figures


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
