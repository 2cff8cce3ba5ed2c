"""A run's folder: what lies where, in which state it is, and who may write into it.

config.yaml         the resolved configuration          predictions/*.jsonl   per-example results
environment.json    versions, commit, hashes            adapter/              the trained adapter and its tokenizer
metrics.jsonl       loss and learning rate by step      model/                instead, where all weights were trained
loss.svg            their plot, with matplotlib         checkpoints/          what --resume continues from
diagnostics.jsonl   the update along training           result.json           written last: the run is complete
error.json, log.txt of a run that a comparison started: why it failed, and where
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

from linchain.errors import LinchainError
from linchain.files import check_writable

LOCK = ".lock"
PART = ".part"  # ends the name of a file that is being written
State = Literal["new", "interrupted", "complete", "foreign"]


class RunFolder:
    """The paths of a run folder and the rules for using it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.predictions = self.path / "predictions"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
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

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end; one that a kill cut short is passed over."""
        steps = sorted(self.checkpoints.glob("checkpoint-*"), key=checkpoint_step, reverse=True)
        return next((step for step in steps if _trainer_state(step) is not None), None)

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
        checkpoint = self.last_checkpoint()
        state = _trainer_state(checkpoint) if checkpoint else None
        return f"step {state['global_step']} of {state['max_steps']}" if state else "no checkpoint yet"

    def in_use(self) -> AbstractContextManager[None]:
        """Hold the folder until left or killed; LinchainError where another process holds it."""
        return folder_lock(self.path)

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that lies in the folder."""
        # result.json first and config.yaml last: killed in between, the folder is still an interrupted run
        for path in (
            self.result, self.predictions, self.adapter, self.model, self.checkpoints, self.metrics, self.diagnostics,
            self.plot, self.error, self.environment, self.config,
        ):  # fmt: skip
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Make the folder `path` and hold it until left or killed; LinchainError where another process holds it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("w")
    except OSError as error:
        raise LinchainError(f"output folder {path} cannot be written: {error.strerror}") from error
    with lock:
        try:
            import fcntl
        except ImportError:  # Windows has no flock: the folder is then not guarded against a second process
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LinchainError(f"output folder {path} is in use by another linchain process") from error
        yield


def foreign_names(folder: Path, own: set[str]) -> set[str]:
    """What lies in `folder` beside `own` names and what a kill left of a file that was being written."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names - own if not name.endswith(PART)}


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a folder `checkpoint-<step>` was written at."""
    return int(checkpoint.name.rpartition("-")[2])


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """`write_text` of one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The content of a JSON file of ours."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of ours; a last line that a kill cut short is left out."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _trainer_state(checkpoint: Path) -> dict[str, Any] | None:
    """What transformers.Trainer writes last into a checkpoint; None where it is missing or cut short."""
    try:
        return read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return None
