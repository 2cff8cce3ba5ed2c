"""What is read off a GPU's profile and clocks, by the events of one that is not there."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from linchain.bench import gpu
from linchain.bench.report import _gpu


class Event:
    def __init__(
        self, device: DeviceType, milliseconds: int, annotation: bool = False, name: str = "sm90_gemm"
    ) -> None:
        self._about = device, milliseconds, annotation, name

    def name(self) -> str:
        return self._about[3]

    def device_type(self) -> DeviceType:
        return self._about[0]

    def duration_ns(self) -> int:
        return self._about[1] * 10**6

    def is_user_annotation(self) -> bool:
        return self._about[2]


def see(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler finds these events."""

    @contextmanager
    def profile(activities: Any) -> Any:
        yield SimpleNamespace(profiler=SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events)))

    monkeypatch.setattr(gpu, "profile", profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.parametrize(("step", "busy", "launch_bound"), [(0.010, 0.8, True), (0.008, 1.0, False)])
def test_busy_is_what_kernels_take_of_a_step(
    step: float, busy: float, launch_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kernels of 3 and 4 ms and a copy of 1 ms a step, under an annotation that spans them, beside the CPU's events."""
    on_gpu = [Event(DeviceType.CUDA, 3), Event(DeviceType.CUDA, 4), Event(DeviceType.CUDA, 1, name="Memcpy DtoD")]
    others = [Event(DeviceType.CUDA, 9, annotation=True), Event(DeviceType.CPU, 7)]
    taken: list[int] = []
    trainee: Any = SimpleNamespace(step=lambda: taken.append(1))
    see([*on_gpu, *others] * gpu.PROFILED_STEPS, monkeypatch)
    found = gpu.profiled(trainee, step)
    assert found == {"kernels": 2, "busy_share": pytest.approx(busy), "launch_bound": launch_bound}
    assert len(taken) == gpu.PROFILED_STEPS


def test_a_profiler_that_sees_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    see([Event(DeviceType.CPU, 7)], monkeypatch)
    trainee: Any = SimpleNamespace(step=lambda: None)
    with pytest.raises(RuntimeError, match="sees nothing of the GPU"):
        gpu.profiled(trainee, 0.01)


def test_a_clock_that_nothing_tells_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported() -> int:
        raise OSError("not supported here")

    monkeypatch.setattr(torch.cuda, "clock_rate", unsupported)
    assert gpu.clock() is None
    machine = {"tf32": False, "attention": {"flash": True, "math": False}}
    assert _gpu(machine, [None, 1980]) == ["TF32 off; attention by flash; clock before and after: unknown and 1980 MHz"]
