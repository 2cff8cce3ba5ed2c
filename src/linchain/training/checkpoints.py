"""Checkpoints that are there whole or not at all, and whose bytes are checked before a run continues from them.

checkpoint-<step>/  what transformers.Trainer saves, and hashes.json: the SHA-256 of each of its files
*.part              one that is being written or removed; what a kill leaves of it goes with the next one
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from linchain import processes
from linchain.errors import LinchainError, first_line
from linchain.files import PART, put_in_place, read_json, remove, sha256, write_json

HASHES = "hashes.json"
TRAINER_STATE = "trainer_state.json"
SCRATCH = f"saving{PART}"
KEPT = 2
# what a disk that takes no more makes the system, torch and safetensors raise; of torch's only what its writer of files says
UNWRITTEN = (OSError, RuntimeError, SafetensorError)
TORCHS_WRITER = "inline_container"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in `folder`."""

    folder: Path

    @property
    def scratch(self) -> Path:
        """Where the trainer saves while a checkpoint is written."""
        return self.folder / SCRATCH

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"checkpoint-{step}"

    def newest(self) -> list[Path]:
        """All of them, whole or damaged, the newest first."""
        found = (path for path in self.folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
        return sorted(found, key=checkpoint_step, reverse=True)

    def newer(self, step: int) -> list[Path]:
        """Those of later steps. A run at `step` has passed them over as damaged: pruned by number, they would outlive it."""
        return [path for path in self.newest() if checkpoint_step(path) > step]

    def search(self) -> tuple[Path | None, dict[Path, str]]:
        """The newest whole one, and what is wrong with those that are newer. It takes reading all of their bytes."""
        damaged: dict[Path, str] = {}
        for path in self.newest():
            if (wrong := damage(path)) is None:
                return path, damaged
            damaged[path] = wrong
        return None, damaged

    def last(self) -> Path | None:
        """The newest whole one."""
        return self.search()[0]

    @contextmanager
    def writing(self, step: int, waits: bool = True) -> Iterator[Path]:
        """A folder for the trainer to save into; its `checkpoint-<step>` is put in place where the block ends well.

        Every process enters it; the main one puts the checkpoint in place when all have written their parts. Raises
        LinchainError, and leaves the other checkpoints as they were, where the disk does not take it: in all of them, or,
        without `waits`, at once in the one that it refuses, because the others may be waiting for it within the block.
        """
        try:
            with self.together(step):
                if processes.is_main():
                    self.tidy()
            with self.together(step) if waits else self.told(step):
                yield self.scratch
            if not waits:
                processes.exchange(None)  # all have written their parts
            with self.together(step):
                if processes.is_main():
                    self._put_in_place(self.at(step))
        except LinchainError:
            if processes.is_main():
                shutil.rmtree(self.scratch, ignore_errors=True)
            raise

    @contextmanager
    def together(self, step: int) -> Iterator[None]:
        """A block that all processes leave together: what the disk does not take of one is a LinchainError in all.

        Nothing in it may make the others wait after one has failed.
        """
        with processes.agreed(), self.told(step):
            yield

    @contextmanager
    def told(self, step: int) -> Iterator[None]:
        """Makes a LinchainError of what is raised where the disk takes no more of the checkpoint of `step`."""
        try:
            yield
        except UNWRITTEN as error:
            if isinstance(error, RuntimeError) and TORCHS_WRITER not in str(error):
                raise
            what = f"checkpoint {self.at(step)} cannot be written: {_reason(error)}"
            raise LinchainError(f"{what}{self._kept()}") from error

    def _put_in_place(self, whole: Path) -> None:
        part = self.scratch / whole.name
        write_json(part / HASHES, {name: sha256(part / name) for name in _files(part)})
        if whole.exists():  # it was damaged: the run came back to its step
            _remove(whole)
        put_in_place(part, whole)
        for passed_over in self.newer(checkpoint_step(whole)):
            _remove(passed_over)
        self.scratch.rmdir()

    def prune(self, best: int | None) -> None:
        """Remove all but the last ones that are whole, and that of the step `best`."""
        spared = {self.at(best)} if best is not None else set()
        for path in self.newest()[KEPT:]:
            if path not in spared:
                _remove(path)

    def tidy(self) -> None:
        """Take away what kills have left of checkpoints that were being written or removed."""
        for part in self.folder.glob(f"*{PART}"):
            remove(part)

    def clear(self) -> None:
        """Remove all of them. Where the folder is a link, to a larger disk perhaps, it stays one, for the next ones."""
        if not self.folder.is_symlink():
            remove(self.folder)
            return
        self.tidy()
        for path in self.newest():
            _remove(path)

    def _kept(self) -> str:
        last = self.last()
        return f"; {last} is whole: continue from it with --resume" if last else ""


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a folder `checkpoint-<step>` was written at."""
    return int(checkpoint.name.rpartition("-")[2])


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """What transformers.Trainer knew of the run: global_step, max_steps, best_global_step and others."""
    return read_json(checkpoint / TRAINER_STATE)


def damage(checkpoint: Path) -> str | None:
    """What differs from what was written into the checkpoint; None where nothing does."""
    try:
        written = read_json(checkpoint / HASHES)
        there = set(_files(checkpoint)) - {HASHES}
        for name in sorted(written.keys() | there):
            if name not in there:
                return f"{name} is missing"
            if sha256(checkpoint / name) != written.get(name):
                return f"{name} is not what was written"
    except (OSError, LinchainError) as error:
        return str(error).replace(f"{checkpoint}{os.sep}", "")
    return None


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _remove(checkpoint: Path) -> None:
    # in one step out of the list of checkpoints: half of one is none
    part = checkpoint.with_name(checkpoint.name + PART)
    checkpoint.replace(part)
    remove(part)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)
