"""Whole runs on a tiny model: what they leave behind, and that a killed one ends as an undisturbed one."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from linchain.errors import LinchainError, RunInterrupted
from linchain.training.evaluate import Question, evaluate_target
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer
from tests.training.short_runs import Killed, interrupt_at, kill, outcome


def test_a_run_leaves_everything_and_learns(configure):
    config = configure("run", training={"max_steps": 40, "learning_rate": 1e-2}, evaluation={"metric": "loss"})
    result = train(config)
    folder = RunFolder(config.output)
    assert folder.state == "complete"
    assert json.loads(folder.result.read_text()) == result
    before, after = (result["scores"][stage][0]["value"] for stage in ("before", "after"))
    assert after < before - 0.5
    assert len((folder.predictions / "after.jsonl").read_text().splitlines()) == 6
    adapter = load_file(folder.adapter / "adapter_model.safetensors")
    assert any("lora_A" in name for name in adapter)
    assert (folder.adapter / "tokenizer.json").is_file()
    environment = json.loads(folder.environment.read_text())
    assert environment["data"]["train"]["records"] == 22
    assert set(environment["model"]) == {"config.json", "model.safetensors"}
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == list(range(1, 41))
    assert "<svg" in folder.plot.read_text()


@pytest.mark.parametrize("step", [2, 5, 7, 10], ids=lambda step: f"killed_in_step_{step}")
def test_a_killed_run_resumes_to_the_same_result(configure, monkeypatch, step):
    undisturbed, killed = configure("undisturbed"), configure("killed")
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, kill)
        with pytest.raises(Killed):
            train(killed)
    assert RunFolder(killed.output).state == "interrupted"
    train(killed, Start(resume=True))
    assert outcome(killed) == outcome(undisturbed)


def test_a_run_killed_after_its_last_step_is_finished_without_another_step(configure, monkeypatch, tmp_path):
    undisturbed, killed, moved = configure("undisturbed"), configure("killed"), configure("moved")
    train(undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr("linchain.training.run._save_trained", lambda *_: kill())
        with pytest.raises(Killed):
            train(killed)
    # where it lies is no part of a run, nor is a link in the place of its adapter
    folder = RunFolder(killed.output).path.rename(moved.output)
    (tmp_path / "disk").mkdir()
    (folder / "adapter").symlink_to(tmp_path / "disk")
    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "training_step", lambda *_, **__: kill())
        result = train(moved, Start(resume=True))
    assert (result["steps"], result["resumed_from_step"]) == (10, 10)
    assert outcome(moved) == outcome(undisturbed)
    assert list((tmp_path / "disk").iterdir()) == []


def test_control_c_leaves_a_checkpoint_of_the_last_step(configure, monkeypatch):
    undisturbed, stopped = configure("undisturbed"), configure("stopped")
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(RunInterrupted, match="step 6 of 10"):
            train(stopped)
    assert RunFolder(stopped.output).checkpoints.last().name == "checkpoint-6"
    train(stopped, Start(resume=True))
    assert outcome(stopped) == outcome(undisturbed)


@pytest.mark.parametrize("killed", [False, True])
def test_keep_best_ends_with_the_adapter_of_the_lowest_validation_loss(configure, monkeypatch, killed):
    config = configure(
        "best", data={"validation_size": 6}, training={"save_steps": 2, "eval_steps": 2, "keep_best": True}
    )
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    monkeypatch.setattr("linchain.training.trainer.mean_loss", lambda rows: next(losses))
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr("linchain.training.run._save_trained", lambda *_: kill())
            with pytest.raises(Killed):
                train(config)
    train(config, Start(resume=killed))
    folder = RunFolder(config.output)
    kept = load_file(folder.checkpoints.at(4) / "adapter_model.safetensors")
    saved = load_file(folder.adapter / "adapter_model.safetensors")
    assert all((saved[name] == kept[name]).all() for name in kept)


def test_scores_do_not_depend_on_the_precision_of_the_training(configure):
    config = configure(
        "half",
        data={"validation_size": 6},
        training={"max_steps": 2, "precision": "bfloat16", "learning_rate": 1e-30, "eval_steps": 1},
        evaluation={"metric": "loss"},
    )
    autocast = {True: set(), False: set()}  # by whether the model trains

    def note(module, _):
        if isinstance(module, nn.Embedding):
            autocast[module.training].add(torch.is_autocast_enabled(module.weight.device.type))

    hook = register_module_forward_pre_hook(note)
    result = train(config)
    hook.remove()
    assert autocast == {True: {True}, False: {False}}
    before, after = (result["scores"][stage][0]["value"] for stage in ("before", "after"))
    evaluated = evaluate_target(Question(config.output, None, {}))
    assert before == after == evaluated.scores[0].value


def test_what_transformers_refuses_leaves_no_folder(configure, monkeypatch):
    def refuse(_):
        raise ValueError("no bf16 here")

    config = configure("half", training={"precision": "bfloat16"})
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", refuse)
    with pytest.raises(LinchainError, match=r"training\.precision bfloat16: no bf16 here"):
        train(config)
    assert not RunFolder(config.output).path.exists()


def test_overwrite_starts_again(configure):
    config = configure("run")
    train(config)
    first = outcome(config)
    train(config, Start(overwrite=True))
    assert outcome(config) == first
