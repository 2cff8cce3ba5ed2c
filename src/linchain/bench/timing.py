"""Time, in rounds that every contestant takes part in: what else the machine does then falls on all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from linchain.bench.step import Trainee, within_memory
from linchain.training.cost import mark, seconds


def time_rounds(
    trainees: Sequence[Trainee], rounds: int, steps: int, cuda: bool, seed: int, advance: Callable[[int], None]
) -> dict[str, list[list[float]]]:
    """Seconds of every step, by contestant, round and step; the order within each round is shuffled.

    Those that run out of memory are missing.

    Args:
        trainees: warmed up.
        rounds, steps: how many rounds, and how many steps in a row each contestant takes in a round.
        cuda: whether steps are timed by events on the GPU.
        seed: of the order.
        advance: called with 1 after each contestant's turn.
    """
    order = random.Random(seed)
    times: dict[str, list[list[float]]] = {trainee.name: [] for trainee in trainees}
    with _no_collection():
        for _ in range(rounds):
            taking_part = [trainee for trainee in trainees if trainee.name in times]
            for trainee in order.sample(taking_part, len(taking_part)):
                found = within_memory(trainee, partial(take_steps, trainee, steps, cuda))
                if found is None:
                    del times[trainee.name]
                else:
                    times[trainee.name].append(found)
                advance(1)
    return times


def take_steps(trainee: Trainee, steps: int, cuda: bool) -> list[float]:
    """Seconds of each of so many steps in a row."""
    marks: list[tuple[Any, Any]] = []
    for _ in range(steps):
        began = mark(cuda)
        trainee.step()
        marks.append((began, mark(cuda)))
    return seconds(marks, cuda)


@contextmanager
def _no_collection() -> Any:
    """No garbage collection in the middle of somebody's step."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def of_rounds(times: list[list[float]]) -> list[float]:
    """One time for each round: the median of its steps."""
    return [statistics.median(steps) for steps in times]


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'q1': 2.0, 'q3': 4.0}
    """
    if len(values) == 1:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def ratio(times: list[list[float]], rival: list[list[float]]) -> dict[str, float]:
    """Median and quartiles of the ratios within each round, which cancel what slowed the whole round down."""
    return quartiles([own / other for own, other in zip(of_rounds(times), of_rounds(rival), strict=True)])
