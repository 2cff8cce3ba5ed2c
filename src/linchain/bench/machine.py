"""The machine that is measured on: its description, and the cores that are used."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from linchain.errors import LinchainError
from linchain.ops.precision import product_dtype
from linchain.training.environment import describe_machine

_PRODUCT = 1024


def cores() -> list[int]:
    """The cores that this process may run on, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def check_threads(threads: int | None) -> None:
    """Raise LinchainError for more threads than there are cores."""
    if threads is not None and not 1 <= threads <= len(cores()):
        raise LinchainError(f"--threads must be from 1 to {len(cores())}, the cores there are, got {threads}")


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """Compute with so many threads, on as many cores where the system lets a process choose; None: as it is."""
    if threads is None:
        yield
        return
    before, chosen = torch.get_num_threads(), cores()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, chosen[:threads])
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, chosen)


def describe(device: str) -> dict[str, Any]:
    """What the figures depend on beside the workload, for JSON."""
    about = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **describe_machine(), "cores": cores()}
    if device == "cuda":
        backends = torch.backends.cuda
        return about | {
            "device": torch.cuda.get_device_name(),
            "tf32": backends.matmul.allow_tf32,
            "attention": {
                "flash": backends.flash_sdp_enabled(),
                "memory_efficient": backends.mem_efficient_sdp_enabled(),
                "cudnn": backends.cudnn_sdp_enabled(),
                "math": backends.math_sdp_enabled(),
            },
        }
    return about | {
        "device": processor(),
        "bfloat16_emulated": product_dtype(torch.empty(64, 1, dtype=torch.bfloat16)) != torch.bfloat16,
        "product_gflops": {name: round(_product_rate(getattr(torch, name)), 1) for name in ("float32", "bfloat16")},
    }


def processor() -> str:
    """The processor's name."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _product_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of one square product, the better of two: it tells how far a dtype's products are from the others'."""
    a = torch.ones(_PRODUCT, _PRODUCT, dtype=dtype)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * _PRODUCT**3 / min(times[1:]) / 1e9
