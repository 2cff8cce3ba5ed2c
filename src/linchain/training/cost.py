"""What training steps cost here: their time and the memory that they reach, measured while they run."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Linux keeps the highest resident set of a process; writing 5 to clear_refs sets it back to the present one
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class StepCost(TrainerCallback):
    """Times every optimizer step (evaluations and checkpoints left out) and keeps the highest memory within one."""

    def __init__(self) -> None:
        self.marks: list[tuple[Any, Any]] = []  # when each step began and ended
        self.peak: int | None = None
        self.before: int | None = None

    def summary(self) -> dict[str, Any] | None:
        """For result.json; None where no step was run.

        seconds_per_step: the median. peak_memory_bytes: on a GPU the allocated memory, else the process's resident set
        (with Python and all libraries); memory_before_bytes: the same before the first step. None where the system does
        not tell.
        """
        if not self.marks:
            return None
        return {
            "seconds_per_step": round(statistics.median(seconds(self.marks, torch.cuda.is_available())), 6),
            "peak_memory_bytes": self.peak,
            "memory_before_bytes": self.before,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not torch.cuda.is_available():
            give_back()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        cuda = torch.cuda.is_available()
        reset_peak(cuda)
        if self.before is None:
            self.before = peak(cuda)
        self._began = mark(cuda)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        cuda = torch.cuda.is_available()
        self.marks.append((self._began, mark(cuda)))
        reached = peak(cuda)
        if reached is not None:
            self.peak = max(self.peak or 0, reached)


def mark(cuda: bool) -> Any:
    """A point in time; on a GPU an event in its queue, so that nothing waits for the GPU to reach it."""
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(marks: list[tuple[Any, Any]], cuda: bool) -> list[float]:
    """From the first to the second mark of each pair; waits for the GPU to reach them."""
    if not cuda:
        return [end - begin for begin, end in marks]
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in marks]


def give_back() -> None:
    """What a start that is computed (PiSSA, LoRA-GA) has freed: else a step would take that and seem to need nothing."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak(cuda: bool) -> None:
    """From here on `peak` counts anew."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        with contextlib.suppress(OSError):  # some containers forbid it: the peak is then the process's so far
            _CLEAR.write_text("5")


def peak(cuda: bool) -> int | None:
    """Bytes, the highest since `reset_peak`: allocated on the GPU, else resident; None where the system does not tell."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    if not _STATUS.exists():
        return None
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None
