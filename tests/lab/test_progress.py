"""What is printed while a plan runs."""

from io import StringIO

import pytest
from rich.console import Console

from linchain.files import write_json
from linchain.lab.progress import PlanProgress
from linchain.lab.trials import Trial

EXPECTED = {"search": 4, "final": 2, "cost": 2}


@pytest.fixture
def printed():
    return StringIO()


def trial(folder, stage="search", score=None, error=None):
    found = Trial("lora", stage, None, 1e-3, None if stage == "search" else 1, folder, {})
    if error:
        write_json(found.files.error, {"error": error, "diverged": False})
    else:
        split = "validation" if stage == "search" else "after"
        write_json(found.files.result, result({split: [{"name": "accuracy", "value": score}]}))
    return found


def result(scores):
    parameters = {"trainable": 1, "total": 2}
    return {"scores": scores, "parameters": parameters, "seconds": 1.0, "resumed_from_step": None, "cost": None}


def progress(file, terminal=False, places=2):
    return PlanProgress(Console(file=file, force_terminal=terminal, width=100), EXPECTED, lambda: places)


def test_each_run_is_a_line_with_its_score_and_the_time_left(tmp_path, printed):
    with progress(printed) as shown:
        shown.begin("search", 1)
        shown.begin("search", 1)  # at the start, and once more as the stage begins
        assert shown.left() == "time left unknown"
        shown.finished(trial(tmp_path / "a", score=0.25), 10)
        shown.finished(trial(tmp_path / "b", "final", score=0.75), 40)
        shown.finished(trial(tmp_path / "c", "cost"), 3)
    assert printed.getvalue().splitlines() == [
        # two searches and two finals on two places, two cost runs on one: ten seconds each as far as is known
        "[2/8] lora: search at 0.001: accuracy 0.25 (10 s; 0:00:40 left)",
        "[3/8] lora: seed 1: accuracy 0.75 (40 s; 0:01:20 left)",
        "[4/8] lora: cost, round 1 (3 s; 0:00:33 left)",
    ]


def test_a_failed_run_is_named_and_a_mended_one_is_not(tmp_path, printed):
    with progress(printed) as shown:
        failed = trial(tmp_path / "a", error="[out] of memory")
        shown.finished(failed, 1)
        failed.files.error.unlink()
        write_json(failed.files.result, result({"validation": [{"name": "accuracy", "value": 0.5}]}))
        shown.finished(failed, 1)
    first, second = printed.getvalue().splitlines()
    assert first == "lora: search at 0.001 failed: [out] of memory"
    assert second.startswith("[2/8] lora: search at 0.001: accuracy 0.5 (1 s;")


def test_a_terminal_has_a_bar_over_all_runs(tmp_path, printed):
    with progress(printed, terminal=True) as shown:
        shown.begin("search", 1)
        shown.finished(trial(tmp_path / "a", score=0.25), 10)
    assert "2/8" in printed.getvalue()
    assert "0:00:40 left" in printed.getvalue()
    assert shown.bar.finished is False
