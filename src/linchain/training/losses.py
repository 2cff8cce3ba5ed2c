"""The loss of each step: its mean for the log, and the stop of a run whose loss is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch

from linchain.errors import DivergedError
from linchain.files import read_json, write_json
from linchain.processes import exchange

FILE = "losses.json"  # in a checkpoint
EXPLODED = 10.0
SHOWN_EXAMPLES = 10


class StepLosses:
    """The losses of the optimizer steps since the last log.

    They stay on their device until they are asked for: fetching one makes a GPU wait. A checkpoint holds them (`write`,
    `read`), so that the first row that a resumed run logs is the mean over the same steps as an undisturbed run's.
    """

    def __init__(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda losses: losses) -> None:
        """`reduce` makes of the losses of this process, (steps,) float32, those over all processes."""
        self.reduce = reduce
        self.first: float | None = None  # what was logged first
        self.fetched: list[float] = []
        self.examples: list[str] = []  # of the last step, in this process
        self._waiting: list[tuple[int, torch.Tensor, list[str]]] = []  # step, loss, its examples

    def add(self, step: int, loss: torch.Tensor, examples: Sequence[str]) -> None:
        """One forward pass's part, a float32 scalar, of the loss of `step`, with the places of its examples."""
        if self._waiting and self._waiting[-1][0] == step:
            _, before, earlier = self._waiting.pop()
            loss, examples = before + loss, [*earlier, *examples]
        self.examples = list(examples)
        self._waiting.append((step, loss, self.examples))

    def fetch(self) -> None:
        """Bring the losses over. Raises DivergedError, which names step and examples, for one that is no number."""
        if not self._waiting:
            return
        losses = self.reduce(torch.stack([loss for _, loss, _ in self._waiting])).tolist()
        waiting, self._waiting = self._waiting, []
        for loss, (step, _, examples) in zip(losses, waiting, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is no longer a number at step {step}, whose examples are {_listed(examples)}"
                )
        self.fetched += losses

    def logged(self, step: int) -> float:
        """Their mean, and begin anew. Raises DivergedError where it is many times what was logged first.

        A loss below 1 (nat, or squared unit) at the start counts as 1, so that noise about a small loss is no explosion.
        """
        self.fetch()
        mean = fmean(self.fetched)
        self.first = mean if self.first is None else self.first
        if mean > EXPLODED * max(1.0, self.first):
            raise DivergedError(
                f"the loss explodes: {mean:.4g} at step {step}, {self.first:.4g} in the beginning; the examples of this step "
                f"are {_listed(self.examples)}"
            )
        self.fetched = []
        return mean

    def write(self, folder: Path) -> None:
        """Into the folder of a checkpoint."""
        self.fetch()
        write_json(folder / FILE, {"first": self.first, "since_log": self.fetched})

    def read(self, folder: Path) -> None:
        """From the folder of a checkpoint."""
        content = read_json(folder / FILE)
        self.first, self.fetched = content["first"], content["since_log"]


def _listed(examples: list[str]) -> str:
    """Those of all processes, which come here together: the loss is the mean over all of them."""
    examples = [example for part in exchange(examples) for example in part]
    more = len(examples) - SHOWN_EXAMPLES
    return ", ".join(examples[:SHOWN_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
