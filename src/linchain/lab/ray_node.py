"""What a node of a Ray cluster executes.

Ray gets this module's functions by value. Nothing of linchain is imported before the node has been checked for it, nor before
the process sees only its GPU: some libraries ask CUDA as they are imported.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


def problem(here: str, scratch: str, versions: Mapping[str, str]) -> str | None:
    """Why this node can run nothing, as what follows its name; None where it can. Enters the folder `here`.

    Args:
        here: the folder that the command was given in, which relative paths in a plan start from.
        scratch: a folder that the command has just made where the plan's output will lie.
        versions: of packages, as the command has them.
    """
    try:
        os.chdir(here)
    except OSError as error:
        return f"cannot enter {here}, the folder that the command was given in: {error.strerror}"
    try:
        tempfile.TemporaryFile(dir=scratch).close()
    except OSError as error:
        return (
            f"cannot write in {Path(scratch).parent}, where output is to lie: {error.strerror}; choose an output on storage "
            "that all nodes share"
        )
    found = {package: _version(package) for package in versions}
    others = [f"{package} {found[package]} and not {one}" for package, one in versions.items() if found[package] != one]
    return f"has {', '.join(others)}: install the same versions on every node" if others else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"


def attempt(
    work: tuple[str, str], values: dict[str, Any], stage: str, threads: int, surroundings: tuple[Any, ...]
) -> dict[str, Any]:
    """One try of a run on this node.

    Args:
        work: module and name of the function that runs `values`, `stage` and `threads`.
        values: the run's configuration.
        stage: of the comparison.
        threads: CPU threads.
        surroundings: the arguments of `problem`.

    Returns:
        `node`, its host name; `problem`; and without one `seconds`, and `left`, those of the files result.json and
        error.json that are there now.
    """
    began = time.perf_counter()
    report: dict[str, Any] = {"node": platform.node(), "problem": problem(*surroundings)}
    if report["problem"]:
        return report
    if seen := os.environ.get(VISIBLE):
        os.environ[VISIBLE] = seen.partition(",")[0]  # a run that is to be alone on the node was given all GPUs
    module, name = work
    getattr(importlib.import_module(module), name)(values, stage, threads)
    folder = Path(values["output"]).expanduser()
    left = [name for name in ("result.json", "error.json") if (folder / name).is_file()]
    return {**report, "seconds": time.perf_counter() - began, "left": left}
