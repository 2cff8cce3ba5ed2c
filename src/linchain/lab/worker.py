"""One run of a comparison, in a process of its own: of this machine, or a Ray worker."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from linchain.errors import DivergedError, FolderInUseError, LinchainError, RunInterrupted, first_line
from linchain.files import folder_lock, write_json
from linchain.quiet import quiet_libraries
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder

LEASE = 120.0  # seconds; a file server keeps the lock of a machine that went down for a while, NFS for 90 seconds


def work(values: Mapping[str, Any], stage: str, threads: int) -> None:
    """`run` in a process that this one's parent waits for; exits with 0 or 1."""
    _end_with_parent()
    if not run(values, stage, threads):
        sys.exit(1)


def work_on_cluster(values: Mapping[str, Any], stage: str, threads: int) -> None:
    """`run` once no other process holds the run's folder, as one does until its file server learns that it was lost."""
    _wait_for_lock(Path(values["output"]).expanduser(), LEASE)
    run(values, stage, threads)


def run(values: Mapping[str, Any], stage: str, threads: int) -> bool:
    """Runs the configuration `values`, or continues it, and leaves result.json or error.json; whether it has a result.

    Neither is left where it was interrupted, or where another process still holds its folder. A run of the stage "cost"
    starts again, so that its figures are of one piece.
    What libraries and errors print goes to log.txt.
    """
    folder = RunFolder(values["output"])
    folder.path.mkdir(parents=True, exist_ok=True)
    _print_to(folder)
    quiet_libraries()
    torch.set_num_threads(threads)
    try:
        continues = folder.state == "interrupted"
        start = Start(overwrite=continues) if stage == "cost" else Start(resume=continues)
        train(build_config(dict(values)), start)
    except (RunInterrupted, KeyboardInterrupt):
        return False
    except FolderInUseError as error:  # a row of failure would stand beside a run that still trains
        print(error)
        return False
    except Exception as error:
        if not isinstance(error, LinchainError):
            traceback.print_exc()
        _fail(folder, error)
        return False
    return True


def _wait_for_lock(folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with folder_lock(folder):
                return
        except LinchainError:  # the run itself says what is wrong, if it still is
            time.sleep(0.2)


def _fail(folder: RunFolder, error: Exception) -> None:
    text = str(error) if isinstance(error, LinchainError) else f"{type(error).__name__}: {first_line(error)}"
    write_json(folder.error, {"error": " ".join(text.split()), "diverged": isinstance(error, DivergedError)})


def _print_to(folder: RunFolder) -> None:
    log = folder.log.open("a", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())


def _end_with_parent() -> None:
    """A killed comparison leaves no runs behind that would hold their folders when it is started again."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
