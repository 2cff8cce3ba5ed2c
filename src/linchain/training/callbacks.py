"""What happens beside the training loop: the progress bar, metrics.jsonl, and stopping at a step boundary."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linchain.evaluation.progress import Pace
from linchain.files import read_jsonl, write_jsonl
from linchain.processes import count, exchange, is_main

LOGGED = ("loss", "eval_loss", "learning_rate", "grad_norm", "epoch")


class MetricsFile(TrainerCallback):
    """Appends each logged step to metrics.jsonl."""

    def __init__(self, path: Path, together: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`together` is around each writing; every process enters it."""
        self.path, self.together = path, together

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with self.together():
            if is_main():
                # What was written after the checkpoint that a resumed run starts from will be written again.
                rows = read_jsonl(self.path) if self.path.exists() else []
                write_jsonl(self.path, [row for row in rows if row["step"] <= state.global_step])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Else the steps behind the last multiple of logging_steps would be of no row, and the final loss not the final one.
        if state.global_step == state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        row = {name: value for name, value in (logs or {}).items() if name in LOGGED}
        if not {"loss", "eval_loss"} & row.keys():
            return
        with self.together():
            if is_main():
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, **row}) + "\n")


class AtBeginning(TrainerCallback):
    """Calls `action` with the model when the training begins: wrapped or sharded, and on its device."""

    def __init__(self, action: Callable[[Any], Any]) -> None:
        self.action = action

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.action(kwargs["model"])


class ProgressBar(TrainerCallback):
    """Step, loss, learning rate and time left; on something that is no terminal, a line now and then (`Pace`)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.pace: Pace | None = None
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.logged = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[logged]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step, logged="")
        else:
            self.pace = Pace(state.max_steps, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.logged = f"loss {logs['loss']:.4f}  learning rate {logs['learning_rate']:.2e}"
            step = state.global_step
            if self.pace and (left := self.pace.due(step, every=state.max_steps / 10)):
                self.console.print(f"step {step} of {state.max_steps}  {self.logged}  {left}", highlight=False)
        if "eval_loss" in logs:
            self.console.print(f"step {state.global_step}: validation loss {logs['eval_loss']:.4f}", highlight=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=state.global_step, logged=self.logged)

    def close(self) -> None:
        """Take the bar down, also after an error."""
        if self.bar is not None:
            self.bar.stop()


class StopOnSignal(TrainerCallback):
    """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint; a second Ctrl-C ends it at once.

    Use as a context manager around the training; `stopped` is afterwards the signal that came.
    """

    def __init__(self) -> None:
        self.stopped: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        # only the main thread may set handlers; a training in another thread is simply not guarded
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # a launcher passes on what its processes have had already, and kills what does not end
        if self.stopped and count() == 1:
            raise KeyboardInterrupt
        self.stopped = signal.Signals(number)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # one that comes while this process waits for the others is of the next step
        told = next((stopped for stopped in exchange(self.stopped) if stopped), None)
        if told:
            self.stopped = told
            control.should_save = True
            control.should_training_stop = True
