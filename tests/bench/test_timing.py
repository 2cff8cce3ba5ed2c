"""Rounds and ratios."""

from __future__ import annotations

from typing import Any

import pytest

from linchain.bench.timing import quartiles, ratio, time_rounds


class Pretender:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self._log = name, log

    def step(self) -> None:
        self._log.append(self.name)


def test_everyone_takes_part_in_every_round_in_an_order_that_changes() -> None:
    log: list[str] = []
    advanced: list[int] = []
    pretenders: Any = [Pretender(name, log) for name in "abcd"]
    times = time_rounds(pretenders, 6, 2, False, 0, advanced.append)
    rounds = [log[start : start + 8] for start in range(0, 48, 8)]
    assert all(sorted(turn[::2]) == list("abcd") and turn[::2] == turn[1::2] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1
    assert {name: [len(steps) for steps in of] for name, of in times.items()} == dict.fromkeys("abcd", [2] * 6)
    assert all(seconds >= 0 for of in times.values() for steps in of for seconds in steps)
    assert sum(advanced) == 24


def test_ratios_are_taken_within_rounds() -> None:
    """The machine was ten times slower in the second round, and once hiccuped within a turn."""
    own = [[2.0, 2.0, 9.0], [20.0, 20.0, 20.0], [2.0, 2.0, 2.0]]
    rival = [[1.0, 1.0, 1.0], [10.0, 10.0, 10.0], [1.0, 1.0, 1.0]]
    assert ratio(own, rival) == {"median": 2.0, "q1": 2.0, "q3": 2.0}
    assert ratio(own[:1], rival[:1])["median"] == 2.0


def test_quartiles() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0]) == pytest.approx({"median": 2.5, "q1": 1.75, "q3": 3.25})
