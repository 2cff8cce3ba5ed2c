"""One run of a comparison: how it starts, and what it leaves where it fails."""

import signal
import threading

import pytest

from linchain.errors import DivergedError, FolderInUseError, LinchainError, RunInterrupted
from linchain.files import folder_lock, read_json
from linchain.lab import worker
from linchain.training.run import Start
from linchain.training.run_folder import RunFolder

VALUES = {"model": "starter", "data": {"train": "starter:two_step"}, "method": "lora"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(stage, error)`: the Start that a training was asked for, which raises `error`, if it is given."""
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    monkeypatch.setattr(worker, "_print_to", lambda folder: None)
    asked = []

    def once(stage="final", error=None):
        def train(config, start):
            asked.append(start)
            if error:
                raise error

        monkeypatch.setattr(worker, "train", train)
        worker.work({**VALUES, "output": str(tmp_path)}, stage, threads=1)
        return asked[-1]

    return once


@pytest.mark.parametrize(
    ("stage", "begun", "start"),
    [
        ("final", False, Start()),
        ("search", True, Start(resume=True)),
        ("cost", False, Start()),
        ("cost", True, Start(overwrite=True)),
    ],
)
def test_an_interrupted_run_continues_and_one_of_costs_starts_again(run, tmp_path, stage, begun, start):
    if begun:
        RunFolder(tmp_path).config.write_text("")
    assert run(stage) == start


@pytest.mark.parametrize(
    ("error", "text", "diverged"),
    [
        (LinchainError("two\nlines"), "two lines", False),
        (DivergedError("the loss is no longer a number"), "the loss is no longer a number", True),
        (RuntimeError("CUDA out of memory\nmore of it"), "RuntimeError: CUDA out of memory", False),
    ],
    ids=["refused", "diverged", "crashed"],
)
def test_why_it_failed_is_a_line_and_whether_it_diverged(run, tmp_path, error, text, diverged):
    with pytest.raises(SystemExit):
        run(error=error)
    assert read_json(RunFolder(tmp_path).error) == {"error": text, "diverged": diverged}


@pytest.mark.parametrize(
    "error",
    [RunInterrupted("stopped", signal.SIGTERM), KeyboardInterrupt(), FolderInUseError("in use")],
    ids=["stopped", "ctrl_c", "another_process_still_trains"],
)
def test_a_run_that_was_stopped_has_not_failed(run, tmp_path, error):
    with pytest.raises(SystemExit):
        run(error=error)
    assert not RunFolder(tmp_path).error.exists()


def test_on_a_cluster_a_run_waits_until_a_lost_one_has_let_go_of_its_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(worker, "run", lambda *arguments: asked.append(arguments[1]))
    held = folder_lock(tmp_path)
    held.__enter__()
    thread = threading.Thread(target=worker.work_on_cluster, args=({"output": str(tmp_path)}, "final", 1))
    thread.start()
    thread.join(0.5)
    assert asked == []
    held.__exit__(None, None, None)
    thread.join()
    assert asked == ["final"]
    monkeypatch.setattr(worker, "LEASE", 0.3)
    with folder_lock(tmp_path):
        worker.work_on_cluster({"output": str(tmp_path)}, "search", 1)
    assert asked == ["final", "search"], "and gives up in the end: the run itself refuses the folder"
