"""A run's folder: what lies where, in which state it is, and who may write into it.

config.yaml         the resolved configuration          predictions/*.jsonl   per-example results
environment.json    versions, commit, hashes            adapter/              the trained adapter and its tokenizer
metrics.jsonl       loss and learning rate by step      model/                instead, where all weights were trained
loss.svg            their plot, with matplotlib         checkpoints/          what --resume continues from
diagnostics.jsonl   the update along training           result.json           written last: the run is complete
error.json, log.txt of a run that a comparison started: why it failed, and where
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from linchain.errors import LinchainError
from linchain.files import LOCK, PART, check_writable, folder_lock, remove
from linchain.paths import user_path
from linchain.training.checkpoints import Checkpoints, trainer_state

State = Literal["new", "interrupted", "complete", "foreign"]


class RunFolder:
    """The paths of a run folder and the rules for using it."""

    def __init__(self, path: Path | str) -> None:
        self.path = user_path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.predictions = self.path / "predictions"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.diagnostics = self.path / "diagnostics.jsonl"
        self.plot = self.path / "loss.svg"
        self.error = self.path / "error.json"
        self.log = self.path / "log.txt"
        self.result = self.path / "result.json"

    @property
    def state(self) -> State:
        """`new` (absent or empty), `interrupted`, `complete`, or `foreign`: not empty and no run of ours."""
        if self.config.is_file():
            return "complete" if self.result.is_file() else "interrupted"
        return "foreign" if foreign_names(self.path, {LOCK, self.error.name, self.log.name}) else "new"

    def check(self, resume: bool, overwrite: bool) -> None:
        """Refuse, before any work, a folder that this run may not use. LinchainError says what can be done."""
        if resume and overwrite:
            raise LinchainError("--resume continues a run and --overwrite starts it again: give one of them")
        check_writable(self.path)
        state = self.state
        if state == "foreign":
            raise LinchainError(f"output folder {self.path} is not empty and holds no run; choose another one")
        if resume and state == "new":
            raise LinchainError(f"--resume: there is no run in {self.path}; start it without --resume")
        if resume and state == "complete":
            raise LinchainError(f"--resume: the run in {self.path} is complete; --overwrite starts it again")
        if state == "complete" and not overwrite:
            raise LinchainError(
                f"output folder {self.path} holds a finished run; choose another one (output=…), or --overwrite it"
            )
        if state == "interrupted" and not (resume or overwrite):
            raise LinchainError(
                f"output folder {self.path} holds an interrupted run ({self.progress()}); continue it with --resume, "
                "or start it again with --overwrite"
            )

    def progress(self) -> str:
        """How far an interrupted run got."""
        checkpoint = self.checkpoints.last()
        state = trainer_state(checkpoint) if checkpoint else None
        return f"step {state['global_step']} of {state['max_steps']}" if state else "no checkpoint yet"

    def in_use(self) -> AbstractContextManager[None]:
        """Hold the folder until left or killed; LinchainError where another process holds it."""
        return folder_lock(self.path)

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that lies in the folder, nor what a link in it leads to."""
        # result.json first and config.yaml last: killed in between, the folder is still an interrupted run
        remove(self.result)
        self.checkpoints.clear()
        for path in (
            self.predictions, self.adapter, self.model, self.metrics, self.diagnostics, self.plot, self.error,
            self.environment, self.config,
        ):  # fmt: skip
            remove(path)


def foreign_names(folder: Path, own: set[str]) -> set[str]:
    """What lies in `folder` beside `own` names and what a kill left of a file that was being written."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names - own if not name.endswith(PART)}
