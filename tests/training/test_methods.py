"""Every method of the catalogue through `train` on the packaged model: what it saves is what it trained, also when resumed."""

import itertools
import json

import pytest
from safetensors.torch import load_file

from linchain import methods
from linchain.convert.adapter import adapter_folder
from linchain.errors import LinchainError
from linchain.training.evaluate import Question, evaluate_target
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder
from tests.training.short_runs import Killed, interrupt_at, kill, outcome

TYPES = {"dora": "LORA", "linchain-pissa": "LORA", "lora-chain-start": "LORA", "miss": "MISS", "miss-bat": "MISS"}
MOVING = ("pissa", "olora", "lora-ga", "linchain-pissa")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take longer than these runs do."""
    monkeypatch.setattr("linchain.training.run._plot", lambda folder: None)


def configure(folder, name, validation_size=None, **training):
    options = {"r": 8, "target_modules": ["q_proj", "v_proj"]} if name != "full" else {}
    return build_config(
        {
            "model": "starter",
            "method": {"name": name, **options},
            "data": {"train": "starter:add", "test": "starter:add", "limit": 16, "validation_size": validation_size},
            "training": {
                "max_steps": 3,
                "batch_size": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_steps": 1,
                **training,
            },
            "evaluation": {"metric": "loss", "limit": 4},
            "output": str(folder),
        }
    )


def evaluated(folder):
    """The loss of what a run saved."""
    return evaluate_target(Question(str(folder), None, {})).scores[0].value


@pytest.mark.parametrize("name", methods.names())
def test_what_is_saved_is_what_was_trained(tmp_path, name):
    result = train(configure(tmp_path / "run", name))
    before, after = (result["scores"][stage][0]["value"] for stage in ("before", "after"))
    assert abs(after - before) > 1e-5
    # a start that was taken out of the base weights was rounded there
    assert evaluated(tmp_path / "run") == (pytest.approx(after, rel=1e-3) if name in MOVING else after)
    folder = RunFolder(tmp_path / "run")
    if name == "full":
        assert (folder.model / "config.json").is_file()
        assert not folder.adapter.exists()
        return
    config = json.loads((folder.adapter / "adapter_config.json").read_text())
    family = "BONE" if "bone" in name else "LINCHAIN" if name == "moslora" or "linchain" in name else "LORA"
    assert config["peft_type"] == TYPES.get(name, family)
    assert config["r"] == (16 if name in MOVING else 8)
    assert config.get("init_lora_weights", True) is True


@pytest.mark.parametrize("name", ["full", "loraplus", "pissa", "lora-ga", "lora-fa", "linchain-frozen"])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, monkeypatch, name):
    undisturbed, killed = (configure(tmp_path / folder, name) for folder in ("undisturbed", "killed"))
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, kill)
        with pytest.raises(Killed):
            train(killed)
    assert train(killed, Start(resume=True))["resumed_from_step"] == 2
    assert outcome(killed) == outcome(undisturbed)


@pytest.mark.parametrize("name", ["full", "pissa"])
def test_a_run_killed_after_its_last_step_keeps_the_best(tmp_path, monkeypatch, name):
    options = {"validation_size": 4, "eval_steps": 1, "keep_best": True}
    undisturbed, killed = (configure(tmp_path / folder, name, **options) for folder in ("undisturbed", "killed"))
    losses = itertools.cycle([2.0, 1.0, 3.0])
    monkeypatch.setattr("linchain.training.trainer.mean_loss", lambda rows: next(losses))
    train(undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr("linchain.training.run._save_trained", lambda *_: kill())
        with pytest.raises(Killed):
            train(killed)
    train(killed, Start(resume=True))
    assert outcome(killed)[0] == outcome(undisturbed)[0]
    state = json.loads((RunFolder(killed.output).checkpoints.last() / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["global_step"]) == (2, 3)


def test_a_start_that_is_not_the_runs_own_is_refused(tmp_path, monkeypatch):
    config = configure(tmp_path / "run", "pissa")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, kill)
        with pytest.raises(Killed):
            train(config)
    environment = RunFolder(config.output).environment
    environment.write_text(environment.read_text().replace('"start": "', '"start": "0'))
    with pytest.raises(LinchainError, match="the start changed since the run"):
        train(config, Start(resume=True))


def test_the_chain_of_the_control_stays_as_it_starts(tmp_path):
    config = configure(tmp_path / "run", "linchain-frozen", save_steps=1)
    train(config)
    folder = RunFolder(config.output)
    early = load_file(folder.checkpoints.at(2) / "adapter_model.safetensors")
    late = load_file(folder.adapter / "adapter_model.safetensors")
    assert {name.rpartition(".")[2]: bool((early[name] == late[name]).all()) for name in late if "q_proj" in name} == {
        "chain": True,
        "weight": False,
    }


def test_a_run_of_full_fine_tuning_is_a_model_and_not_an_adapter(tmp_path):
    train(configure(tmp_path / "run", "full", max_steps=1))
    with pytest.raises(
        LinchainError, match=r"is a run that trained all weights: .*model is a plain Transformers model"
    ):
        adapter_folder(tmp_path / "run")
    with pytest.raises(LinchainError, match=r"--model starter: the run in .* trained all weights"):
        evaluate_target(Question(str(tmp_path / "run"), "starter", {}))
