"""Runs in processes: as many at a time as there are places, each on its GPU, and what is left of those that die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from linchain.errors import LinchainError
from linchain.lab import executor, queue
from linchain.lab.executor import TRIES, run_all
from linchain.lab.queue import VISIBLE, LocalExecutor, Slot, slots
from linchain.lab.trials import Trial
from tests.lab import workers

TWO = [Slot(1), Slot(1)]
TRIED = "tried 3 times without getting further; see log.txt"


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Processes that import this package's `workers` and nothing else."""
    monkeypatch.setattr(queue, "_work", workers.act_here)
    monkeypatch.setattr(queue, "_context", lambda places: multiprocessing.get_context("spawn"))


def trial(tmp_path, number, act):
    folder = tmp_path / str(number)
    return Trial("lora", "final", None, 1e-3, number, folder, {"folder": str(folder), "act": act})


def nothing(trial, seconds):
    pass


def test_as_many_runs_go_at_a_time_as_there_are_places(tmp_path):
    trials = [trial(tmp_path, number, "meet") for number in range(4)]
    ended = []
    run_all(trials, LocalExecutor(TWO), lambda one, seconds: ended.append(one.seed))
    assert sorted(ended) == [0, 1, 2, 3]
    assert {one.state for one in trials} == {"done"}
    together = [int((one.folder / "met").read_text()) for one in trials]
    assert max(together) == 2


@pytest.mark.parametrize(("listed", "seen"), [(None, {"0", "1"}), ("3, 5", {"3", "5"})])
def test_a_run_sees_the_gpu_of_its_place_from_its_first_import_on(tmp_path, monkeypatch, listed, seen):
    monkeypatch.delenv(VISIBLE, raising=False)
    if listed:
        monkeypatch.setenv(VISIBLE, listed)
    trials = [trial(tmp_path, number, "finish") for number in range(2)]
    run_all(trials, LocalExecutor([Slot(1, gpu=0), Slot(1, gpu=1)]), nothing)
    assert {(one.folder / "seen.txt").read_text() for one in trials} == seen
    assert os.environ.get(VISIBLE) == listed


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("kill", f"the process of this run was killed by signal 9; out of memory?; {TRIED}"),
        ("exit", f"the process of this run ended with status 3; {TRIED}"),
        ("explain", "its own words"),
    ],
)
def test_a_run_that_dies_leaves_its_error_and_the_others_run(tmp_path, act, error):
    trials = [trial(tmp_path, 0, act), trial(tmp_path, 1, "finish")]
    run_all(trials, LocalExecutor(TWO[:1]), nothing)
    assert trials[0].error == error
    assert trials[0].failure["diverged"] == (act == "explain")
    assert trials[1].state == "done"
    if act == "kill":
        assert len((trials[0].folder / "tries").read_text().splitlines()) == TRIES


def test_a_run_whose_process_is_lost_is_tried_again(tmp_path):
    trials, ended = [trial(tmp_path, 0, "kill_once")], []
    trials[0].folder.mkdir()
    trials[0].files.error.write_text('{"error": "of an earlier start", "diverged": false}')
    run_all(trials, LocalExecutor(TWO), lambda one, seconds: ended.append(one.state))
    assert ended == ["done"]
    assert not trials[0].files.error.exists()


def test_a_run_that_gets_further_each_time_is_not_given_up(tmp_path):
    one = trial(tmp_path, 0, "kill_often")
    run_all([one], LocalExecutor(TWO), nothing)
    assert one.state == "done"
    assert len((one.folder / "tries").read_text().splitlines()) > TRIES


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(executor, "write_json", full)
    with pytest.raises(LinchainError, match=r"error\.json cannot be written: No space left on device"):
        run_all([trial(tmp_path, 0, "exit")], LocalExecutor(TWO), nothing)


def interrupt(tmp_path, error):
    """`finished` that raises `error` once the other run has begun."""

    def finished(one, seconds):
        while not (tmp_path / "1" / "began").exists():
            time.sleep(0.01)
        if error is KeyboardInterrupt:
            (tmp_path / "go").touch()
        raise error

    return finished


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt, "done"), (OSError, "missing"), (SystemExit, "missing")]
)
def test_ctrl_c_lets_runs_end_themselves_and_any_other_error_ends_them(tmp_path, error, state):
    trials = [trial(tmp_path, 0, "finish"), trial(tmp_path, 1, "wait"), trial(tmp_path, 2, "finish")]
    with pytest.raises(error):
        run_all(trials, LocalExecutor(TWO), interrupt(tmp_path, error))
    assert [one.state for one in trials] == ["done", state, "missing"]


@pytest.mark.parametrize(
    ("gpus", "other", "threads", "places"),
    [
        (0, False, None, [Slot(4)]),
        (0, False, 1, [Slot(1)] * 4),
        (0, False, 3, [Slot(3)]),
        (0, False, 9, [Slot(4)]),
        (2, True, None, [Slot(2, 0), Slot(2, 1)]),
        (2, True, 1, [Slot(1, 0), Slot(1, 1)]),
        (0, True, None, [Slot(4, 0)]),
    ],
)
def test_places_are_gpus_or_else_threads(monkeypatch, gpus, other, threads, places):
    monkeypatch.setattr(queue.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: other)
    assert slots(threads) == places


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system has no /proc")
def test_the_server_that_runs_are_forked_from_ignores_control_c_while_it_loads():
    """Else a Ctrl-C in the first seconds of a comparison would print the server's traceback after its own last word."""
    code = (
        "from multiprocessing import forkserver; from pathlib import Path; from linchain.lab import queue\n"
        "queue.LocalExecutor([queue.Slot(1)])\n"
        "print(Path(f'/proc/{forkserver._forkserver._forkserver_pid}/status').read_text())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ignored = next(int(line.split()[1], 16) for line in shown.splitlines() if line.startswith("SigIgn"))
    assert ignored & 1 << (signal.SIGINT - 1)
