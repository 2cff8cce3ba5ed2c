import subprocess
import sys

import pytest

from linchain.errors import LinchainError
from linchain.files import LOCK, check_writable, read_jsonl, write_json, write_jsonl, write_text
from linchain.training.run_folder import RunFolder
from tests.training.checkpoint_files import save_checkpoint


@pytest.fixture
def interrupted(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text("model: starter\n")
    for step in (10, 20):
        save_checkpoint(folder.checkpoints, step)
    return folder


def test_states(tmp_path, interrupted):
    folder = RunFolder(tmp_path / "new")
    assert folder.state == "new"
    folder.path.mkdir()
    assert folder.state == "new"
    (folder.path / "thesis.tex").touch()
    assert folder.state == "foreign"
    assert interrupted.state == "interrupted"
    write_json(interrupted.result, {})
    assert interrupted.state == "complete"


def test_progress_is_that_of_the_last_whole_checkpoint(interrupted):
    assert interrupted.progress() == "step 20 of 50"
    (interrupted.checkpoints.at(20) / "trainer_state.json").write_text('{"global_st')
    assert interrupted.progress() == "step 10 of 50"


def test_clear_leaves_what_is_not_ours(interrupted):
    kept = interrupted.path / "lora" / "adapter_config.json"
    kept.parent.mkdir()
    kept.touch()
    interrupted.clear()
    assert [path for path in interrupted.path.rglob("*") if path.is_file()] == [kept]


def test_what_a_link_leads_to_is_neither_removed_nor_written(tmp_path, interrupted):
    kept = tmp_path / "elsewhere" / "kept"
    write_text(kept, "precious")
    for link in (interrupted.adapter, interrupted.predictions):
        link.symlink_to(kept.parent)
    for name in ("report.html.part", "report.html", LOCK):
        (interrupted.path / name).symlink_to(kept)
    write_text(interrupted.path / "report.html", "a stranger's")
    with pytest.raises(LinchainError, match=r"cannot be written: .*\.lock"), interrupted.in_use():
        pass
    interrupted.clear()
    assert kept.read_text() == "precious"
    assert not (interrupted.path / "report.html").is_symlink()
    assert not interrupted.adapter.is_symlink()


def test_a_folder_in_use_by_another_process_is_refused(tmp_path):
    code = (
        "import sys; from linchain.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).in_use(): print('held', flush=True); sys.stdin.read()"
    )
    # sys.argv[0] is -c; the name keeps the package from importing torch (see linchain/__init__.py)
    code = f"import sys; sys.argv[0] = 'linchain'\n{code}"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LinchainError, match="in use by another linchain process"), RunFolder(tmp_path).in_use():
            pass
        holder.kill()
        holder.wait()
        with RunFolder(tmp_path).in_use():
            pass


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LinchainError, match="file is a file"):
        check_writable(tmp_path / "file" / "run")


def test_rows_read_back_as_written(tmp_path):
    rows = [{"text": "a\u2028b\x85c\nd"}, {"text": "é"}]  # separators that str.splitlines takes for line ends
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_last_line_cut_short_is_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_jsonl(file) == [{"step": 1}, {"step": 2}]
