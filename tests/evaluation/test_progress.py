"""Lines in a log file, where no bar can move."""

from io import StringIO

from rich.console import Console

from linchain.evaluation import progress
from linchain.evaluation.progress import Pace, evaluation_progress


def test_a_line_is_due_by_its_share_or_by_silence(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    pace = Pace(total=400, done=100)
    now += 10
    assert pace.due(110, every=40) is None
    assert pace.due(140, every=40) == "0:01:05 left"  # 40 steps in 10 seconds, 260 to go
    now += 29
    assert pace.due(141, every=40) is None
    now += 1
    assert pace.due(142, every=40) == "0:04:06 left"
    assert pace.due(142, every=40) is None


def test_a_long_evaluation_gives_signs_of_life(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    console = Console(file=StringIO(), width=100)
    with evaluation_progress(console, "evaluating", 40) as advance:
        for _ in range(4):
            now += 16
            advance(10)
    lines = console.file.getvalue().splitlines()
    assert lines == ["evaluating: 40 examples", "evaluating: 20 of 40 examples, 0:00:32 left",
                     "evaluating: 40 of 40 examples, 0:00:00 left"]  # fmt: skip
