"""Whole runs on a tiny model: what they leave behind, and that a killed one ends as an undisturbed one."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from linchain.errors import LinchainError
from linchain.training.evaluate import Question, evaluate_target
from linchain.training.load_config import build_config
from linchain.training.run import RunInterrupted, Start, train
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer


class Killed(BaseException):
    """Stands for a kill: nothing in the run catches it."""


def numbers(count, start=0):
    return [
        {"instruction": f"What is {i} plus {i + 3}?", "output": f"It is {2 * i + 3}.", "answer": str(2 * i + 3)}
        for i in range(start, start + count)
    ]


@pytest.fixture
def configure(tmp_path, tiny_model):
    """Builds the configuration of a run of 10 steps, 3 and a half epochs, into the folder `name`."""
    for name, records in (("train", numbers(22)), ("test", numbers(6, 30))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def build(name, **sections):
        values = {
            "model": str(tiny_model),
            "method": {"name": "linchain", "r": 4, "lora_dropout": 0.1},
            "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
            "training": {
                "max_steps": 10,
                "batch_size": 4,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "logging_steps": 1,
                "save_steps": 4,
            },
            "evaluation": {"max_new_tokens": 4},
            "output": str(tmp_path / name),
        }
        for section, changes in sections.items():
            values[section] = {**values[section], **changes}
        return build_config(values)

    return build


def interrupt_at(monkeypatch, step, action):
    """Calls `action` once, in the training step that would make optimizer step `step`."""
    original = RunTrainer.training_step
    done = []

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step and not done:
            done.append(True)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)


def kill():
    raise Killed


def outcome(config):
    """What must be equal: the bytes of the adapter or model, the losses, the predictions."""
    folder = RunFolder(config.output)
    (weights,) = folder.path.glob("*/*model.safetensors")
    return (
        weights.read_bytes(),
        [
            {"step": row["step"], "loss": row["loss"]}
            for row in map(json.loads, folder.metrics.read_text().splitlines())
            if "loss" in row
        ],
        (folder.predictions / "after.jsonl").read_text(),
    )


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


def test_a_run_killed_after_its_last_step_is_finished_without_another_step(configure, monkeypatch):
    undisturbed, killed = configure("undisturbed"), configure("killed")
    train(undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr("linchain.training.run._save_trained", lambda *_: kill())
        with pytest.raises(Killed):
            train(killed)
    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "training_step", lambda *_, **__: kill())
        result = train(killed, Start(resume=True))
    assert (result["steps"], result["resumed_from_step"]) == (10, 10)
    assert outcome(killed) == outcome(undisturbed)


def test_control_c_leaves_a_checkpoint_of_the_last_step(configure, monkeypatch):
    undisturbed, stopped = configure("undisturbed"), configure("stopped")
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(RunInterrupted, match="step 6 of 10"):
            train(stopped)
    assert RunFolder(stopped.output).last_checkpoint().name == "checkpoint-6"
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
    kept = load_file(folder.checkpoints / "checkpoint-4" / "adapter_model.safetensors")
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
