"""One run of a comparison, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

import torch

from linchain.errors import DivergedError, LinchainError, RunInterrupted, first_line
from linchain.files import write_json
from linchain.quiet import quiet_libraries
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder


def work(values: Mapping[str, Any], stage: str, threads: int) -> None:
    """Runs the configuration `values`, or continues it, and leaves result.json or error.json; exits with 0 or 1.

    A run of the stage "cost" starts again, so that its figures are of one piece. What libraries and errors print goes to
    log.txt.
    """
    _end_with_parent()
    folder = RunFolder(values["output"])
    folder.path.mkdir(parents=True, exist_ok=True)
    _print_to(folder)
    quiet_libraries()
    torch.set_num_threads(threads)
    folder.error.unlink(missing_ok=True)
    try:
        continues = folder.state == "interrupted"
        start = Start(overwrite=continues) if stage == "cost" else Start(resume=continues)
        train(build_config(dict(values)), start)
    except (RunInterrupted, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        if not isinstance(error, LinchainError):
            traceback.print_exc()
        _fail(folder, error)
        sys.exit(1)


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
