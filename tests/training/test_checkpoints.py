"""A checkpoint is there whole or not at all, and one whose bytes have changed is not used."""

import os
import pydoc
import resource
import signal

import pytest
import torch

from linchain.errors import LinchainError
from linchain.training.checkpoints import HASHES, Checkpoints, damage
from tests.training.checkpoint_files import save_checkpoint

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def checkpoints(tmp_path):
    saved = Checkpoints(tmp_path)
    for step in (10, 20):
        save_checkpoint(saved, step)
    return saved


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, os.remove])
@pytest.mark.parametrize("name", [WEIGHTS, "trainer_state.json", HASHES])
def test_a_damaged_checkpoint_is_passed_over_by_name(checkpoints, harm, name):
    assert checkpoints.search() == (checkpoints.at(20), {})
    harm(checkpoints.at(20) / name)
    last, damaged = checkpoints.search()
    assert last == checkpoints.at(10)
    assert [*damaged] == [checkpoints.at(20)]
    # hashes of which one is wrong name the file that they should be of
    assert (WEIGHTS if name == HASHES and harm is flip_a_bit else name) in damaged[checkpoints.at(20)]


def test_a_file_that_was_not_written_with_it_is_damage(checkpoints):
    (checkpoints.at(20) / "optimizer.pt").write_bytes(b"another one")
    assert damage(checkpoints.at(20)) == "optimizer.pt is not what was written"


@pytest.mark.parametrize("hashes", ["[]", "[" * 10**5, "5"])
def test_hashes_that_are_none_are_damage(checkpoints, hashes):
    (checkpoints.at(20) / HASHES).write_text(hashes)
    assert damage(checkpoints.at(20)).startswith(f"{HASHES}: ")


def test_hashes_of_other_files_are_not_read(checkpoints):
    (checkpoints.at(20) / HASHES).write_text('{"/dev/zero": "00", "../checkpoint-10/hashes.json": "00"}')
    assert damage(checkpoints.at(20)).endswith("is missing")


def test_the_last_ones_and_the_best_are_kept(checkpoints):
    for step in (30, 40, 50):
        save_checkpoint(checkpoints, step)
        checkpoints.prune(best=20)
    assert [path.name for path in checkpoints.newest()] == ["checkpoint-50", "checkpoint-40", "checkpoint-20"]


def test_a_checkpoint_outlives_damaged_ones_of_later_steps(tmp_path):
    saved = Checkpoints(tmp_path)
    for step in (30, 40):
        save_checkpoint(saved, step)
        truncate(saved.at(step) / WEIGHTS)
    save_checkpoint(saved, 10)
    saved.prune(best=None)
    assert saved.newest() == [saved.at(10)]


def test_a_link_to_where_checkpoints_lie_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "thesis.tex").touch()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    saved = Checkpoints(tmp_path / "checkpoints")
    save_checkpoint(saved, 10)
    (saved.folder / "left.part").touch()
    saved.clear()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["thesis.tex"]
    save_checkpoint(saved, 20)
    assert (tmp_path / "disk" / "checkpoint-20").is_dir()


def test_what_a_kill_leaves_is_no_checkpoint_and_goes_with_the_next_one(checkpoints):
    part = checkpoints.folder / "saving.part" / "checkpoint-30"
    part.mkdir(parents=True)
    (part / WEIGHTS).touch()
    (checkpoints.folder / "file.part").touch()
    assert checkpoints.last() == checkpoints.at(20)
    save_checkpoint(checkpoints, 30)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "checkpoint-10", "checkpoint-20", "checkpoint-30",
    ]  # fmt: skip


def test_the_step_of_a_damaged_one_is_written_again(checkpoints):
    flip_a_bit(checkpoints.at(20) / WEIGHTS)
    save_checkpoint(checkpoints, 20, b"weights again")
    assert checkpoints.last() == checkpoints.at(20)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system limits no sizes of files")
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(checkpoints):
    # a limit on the size of files stands for the disk's: the system refuses the write itself
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            LinchainError, match=r"checkpoint-30 cannot be written: File too large; .*checkpoint-20 is whole"
        ):
            save_checkpoint(checkpoints, 30, b"w" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["checkpoint-10", "checkpoint-20"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize(
    "call", ["linchain.files.sync", "linchain.training.checkpoints.sha256", "os.replace", "shutil.rmtree"]
)
def test_a_kill_in_the_middle_of_saving_leaves_a_whole_checkpoint(checkpoints, monkeypatch, call):
    """The process is killed at its first, second, third… call of a function that saving goes through."""
    original = pydoc.locate(call)
    for count in range(1, 20):
        left = iter(range(count, 0, -1))

        def killed(*arguments, left=left):
            if next(left, 0) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        monkeypatch.setattr(call, killed)
        child = os.fork()
        if child == 0:
            save_checkpoint(checkpoints, 30)
            checkpoints.prune(None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        monkeypatch.setattr(call, original)
        assert checkpoints.last() in (checkpoints.at(20), checkpoints.at(30))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert count > 1, f"{call} is not called"
    assert checkpoints.last() == checkpoints.at(30)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Connection closed by peer")]
)
def test_what_no_disk_refused_is_not_laid_to_the_disk(checkpoints, error):
    with pytest.raises(type(error), match=str(error)), checkpoints.writing(30):
        raise error
    assert checkpoints.search() == (checkpoints.at(20), {})
