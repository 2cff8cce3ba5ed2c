"""The commands as they are typed, in this process."""

import json
import shlex
import signal

import pytest

from linchain.cli.app import main
from linchain.training.trainer import RunTrainer

CONFIG = """
model: {model}
method: {{name: linchain, r: 4}}
data: {{train: data.jsonl, test: data.jsonl}}
training: {{max_steps: 4, batch_size: 2, logging_steps: 1}}
evaluation: {{max_new_tokens: 2}}
"""


@pytest.fixture
def command(tmp_path, tiny_model, monkeypatch, capsys):
    """Runs `linchain` with arguments in a folder with run.yaml and its data; returns status and output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.format(model=tiny_model))
    rows = [{"instruction": f"say {i}", "output": "blue", "answer": "blue"} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["linchain", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code, capsys.readouterr().out

    return run


def test_train_then_evaluate(command, tmp_path):
    status, out = command("train", "run.yaml", "training.seed=1")
    assert status == 0
    for part in ("trainable", "4 of 2 examples", "about", "exact_match", "runs/run/adapter", "linchain export"):
        assert part in out
    assert (tmp_path / "runs/run/result.json").is_file()
    status, out = command("evaluate", "runs/run", "--metric", "loss", "--batch-size", "2")
    assert status == 0
    assert "perplexity" in out
    assert (tmp_path / "runs/run/predictions/data.loss.jsonl").is_file()


def test_dry_run_reports_and_writes_nothing(command, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    status, out = command("train", "run.yaml", "--dry-run")
    assert status == 0
    for part in ("linchain", "steps", "activations"):
        assert part in out
    assert "autocast" not in out
    status, out = command("train", "run.yaml", "training.precision=bfloat16", "--dry-run")
    assert "as without bfloat16 autocast" in " ".join(out.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_in_the_folder_of_a_run_says_that_too(command, tmp_path):
    assert command("train", "run.yaml")[0] == 0
    status, out = command("train", "run.yaml", "--dry-run")
    assert status == 0
    assert "activations" in out
    assert "without --dry-run: output folder runs/run holds a finished run" in out


def test_evaluate_maps_columns(command, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"prompt": "say 1", "completion": "blue"}\n')
    assert command("train", "run.yaml")[0] == 0
    mapped = ["--columns", "instruction=prompt", "--columns", "output=completion"]
    status, out = command("evaluate", "runs/run", "--data", "other.jsonl", *mapped)
    assert status == 0
    assert "other" in out
    assert command("evaluate", "runs/run", "--data", "other.jsonl", "--columns", "output")[0] == 2


def test_preview_shows_what_is_learned(command, tmp_path):
    status, out = command("train", "run.yaml", "--preview")
    assert status == 0
    assert "data.jsonl:1, format instruction" in out
    assert "'blue</s>'" in out
    assert not (tmp_path / "runs").exists()


def test_control_c_says_how_to_continue(command, monkeypatch):
    original = RunTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "training_step", training_step)
        status, out = command("train", "run.yaml", "output=my runs/run")
    assert status == 130
    reason, continued = out.splitlines()[-1].split("; continue with: linchain ")
    assert reason == "stopped at step 2 of 4"
    status, out = command(*shlex.split(continued))
    assert status == 0
    (evaluation,) = (line for line in out.splitlines() if line.startswith("evaluate "))
    assert shlex.split(evaluation)[1:] == ["linchain", "evaluate", "my runs/run"]
