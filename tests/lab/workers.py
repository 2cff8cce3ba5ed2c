"""What the tests of the queue run in the place of a training: in processes of their own, that import nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SEEN_AT_IMPORT = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
PATIENCE = 60.0  # seconds until a wait is given up, which fails the test


def act_here(interrupts_ignored: bool, *arguments: Any) -> None:
    """`act`, as the executor of this machine calls it."""
    act(*arguments)


def act(values: Mapping[str, Any], stage: str, threads: int) -> None:
    """Does what `values` ask for in its folder, which is that of a run."""
    folder = Path(values["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    acts = {"meet": _meet, "finish": _finish, "wait": _wait, "kill": _kill, "kill_once": _kill_once, "exit": _exit}
    acts |= {"explain": _explain, "resources": _resources, "kill_often": _kill_often}
    acts[values["act"]](folder)


def _finish(folder: Path) -> None:
    (folder / "seen.txt").write_text(SEEN_AT_IMPORT)
    (folder / "result.json").write_text("{}")


def _meet(folder: Path) -> None:
    """Is only done when another one runs at the same time; notes how many there were."""
    (folder / "running").touch()
    _until(lambda: len(list(folder.parent.glob("*/met"))) > 0 or len(_running(folder)) > 1)
    (folder / "met").write_text(str(len(_running(folder))))
    (folder / "running").unlink()
    _finish(folder)


def _running(folder: Path) -> list[Path]:
    return list(folder.parent.glob("*/running"))


def _wait(folder: Path) -> None:
    (folder / "began").touch()
    _until((folder.parent / "go").exists)
    _finish(folder)


def _resources(folder: Path) -> None:
    """Notes what Ray has given to this process, and where."""
    import ray

    context = ray.get_runtime_context()
    (folder / "cpus").write_text(str(context.get_assigned_resources()["CPU"]))
    (folder / "node").write_text(context.get_node_id())
    _finish(folder)


def _kill_once(folder: Path) -> None:
    if (folder / "killed").exists():
        _finish(folder)
    else:
        (folder / "killed").touch()
        _kill(folder)


def _kill(folder: Path) -> None:
    with (folder / "tries").open("a") as file:
        file.write("one\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_often(folder: Path) -> None:
    """Is killed four times, each time after another checkpoint."""
    number = len(list(folder.glob("checkpoints/*"))) + 1
    if number > 4:
        _finish(folder)
    else:
        (folder / "checkpoints" / f"checkpoint-{number}").mkdir(parents=True)
        _kill(folder)


def _exit(folder: Path) -> None:
    sys.exit(3)


def _explain(folder: Path) -> None:
    (folder / "error.json").write_text('{"error": "its own words", "diverged": true}')
    sys.exit(1)


def _until(come: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not come():
        if time.monotonic() > end:
            sys.exit("waited in vain")
        time.sleep(0.01)
