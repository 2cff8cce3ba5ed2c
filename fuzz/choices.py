"""Turns the bytes that a fuzzer (or hypothesis) gives into choices, so that a change of a byte is a change of a value.

Bytes that have run out choose the first of everything: no bytes at all are the plainest case.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

NUMBERS = (
    0,
    1,
    -1,
    2,
    8,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    1e-3,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
TEXTS = (
    "", " ", "a", "q_proj", "0", "8", "1e3", "nan", "1" * 5000, "0x" + "f" * 5000, "1" + ":1" * 3000, "0o7", "true", "(",
    "(a+)+$", "*", ".", "..", "../x", "~nobody/x",
    "/", "\0", "\x1b[31m", "[red]", "=1+1", "|", "<b>", "\ud800", "é", "x" * 300, "task:", "task:gsm8k", "starter:add",
    "all-linear", "pissa", "identity", "auto",
)  # fmt: skip


def scratch() -> Path:
    """A folder for the files of the cases, in memory where the machine has such a place, removed at the end."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Choices:
    """Values that the bytes of `data` choose, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        """The next byte; 0 where there is none."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`, of which there are 256 at most that can be reached."""
        return options[self.byte() % len(options)]

    def rest(self) -> bytes:
        """All bytes that are left."""
        left, self._at = self._data[self._at :], len(self._data)
        return left

    def text(self) -> str:
        """A text of the list, or one of the next bytes."""
        if self.byte() % 4:
            return self.pick(TEXTS)
        length = self.byte() % 32
        part = self._data[self._at : self._at + length]
        self._at += length
        return part.decode("utf-8", "surrogateescape")

    def value(self, depth: int = 2) -> Any:
        """Anything that JSON or YAML can hold."""
        kind = self.byte() % (8 if depth else 6)
        if kind < 2:
            return self.pick(NUMBERS)
        if kind < 4:
            return self.text()
        if kind == 4:
            return self.pick((None, True, False))
        if kind == 5:
            return self.byte()
        count = self.byte() % 4
        if kind == 6:
            return [self.value(depth - 1) for _ in range(count)]
        return {self.text(): self.value(depth - 1) for _ in range(count)}
