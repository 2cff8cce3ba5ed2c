"""`linchain evaluate --harness` from a target to its table and predictions."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from linchain import LinChainConfig
from linchain.cli.app import app
from linchain.errors import LinchainError
from linchain.training.evaluate import Question
from linchain.training.harness import evaluate_with_harness
from linchain.training.load_config import build_config
from linchain.training.run import train
from tests.evaluation.harness_tasks import spare_seconds, write_tasks

pytest.importorskip("lm_eval")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with the tasks in `tasks`."""
    spare_seconds(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    write_tasks(tmp_path / "tasks")
    return tmp_path


def ask(target, base=None, tasks=("tiny_choice",), **options):
    return evaluate_with_harness(Question(str(target), base, options), tasks, "tasks")


def responses(answer):
    return [row["filtered_resps"] for row in map(json.loads, answer.predictions.read_text().splitlines())]


@pytest.mark.parametrize("config", [LinChainConfig, LoraConfig])
def test_an_adapter_is_asked_without_exporting_it(tiny_model, folder, config):
    torch.manual_seed(0)
    options = {"init_weights" if config is LinChainConfig else "init_lora_weights": False}
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(model, config(r=4, task_type="CAUSAL_LM", target_modules="all-linear", **options))
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "merged")
    of_adapter, of_merged, of_base = ask("adapter"), ask("merged"), ask(tiny_model)
    assert of_adapter.predictions == folder.relative_to(folder) / "predictions/adapter.tiny_choice.harness.jsonl"
    assert len(responses(of_adapter)) == 6
    for ours, merged, base in zip(*map(responses, (of_adapter, of_merged, of_base)), strict=True):
        assert [value for value, _ in ours] == pytest.approx([value for value, _ in merged], abs=1e-3)
        assert [value for value, _ in ours] != pytest.approx([value for value, _ in base], abs=0.1)


def test_a_run_is_asked_by_the_command(tiny_model, folder):
    row = {"instruction": "say", "output": "blue", "answer": "blue"}
    (folder / "data.jsonl").write_text(json.dumps(row) + "\n")
    values = {
        "model": str(tiny_model),
        "method": {"name": "linchain", "r": 2},
        "data": {"train": "data.jsonl", "test": "data.jsonl"},
        "training": {"max_steps": 1},
        # the harness's tasks are not shortened to what the run was tested on
        "evaluation": {"metric": "loss", "limit": 1},
        "output": "run",
    }
    train(build_config(values))
    options = ["--harness", "tiny_choice, tiny_answer", "--harness-include", "tasks"]
    text = shown("run", *options)
    assert "predictions: run/predictions/tiny_choice+tiny_answer.harness.jsonl" in text
    for words in (["tiny_choice", "0", "acc_norm", "6"], ["tiny_answer", "0", "exact_match", "6"]):
        assert any(all(word in line.split() for word in words) for line in text.splitlines()), words
    shown("run", *options, "--model", str(tiny_model), "--limit", "2")
    other = f"run/predictions/tiny_choice+tiny_answer.harness.on-{tiny_model.name}.jsonl"
    assert len((folder / other).read_text().splitlines()) == 4


def shown(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_what_cannot_be_asked_is_refused_before_weights_are_loaded(tiny_model, folder, monkeypatch):
    def loaded(*arguments):
        pytest.fail("weights were loaded")

    monkeypatch.setattr("linchain.training.harness.load_target", loaded)
    with pytest.raises(LinchainError, match="unknown task 'tiny_chioce'; did you mean 'tiny_choice'"):
        ask(tiny_model, tasks=["tiny_chioce"])
    with pytest.raises(LinchainError, match="--data does not go with --harness"):
        ask(tiny_model, **{"data.test": ["data.jsonl"]})
    with pytest.raises(LinchainError, match="--max-new-tokens does not go with --harness"):
        ask(tiny_model, **{"evaluation.max_new_tokens": 4})
    with pytest.raises(LinchainError, match=r"evaluation\.limit: must be greater than 0, found 0"):
        ask(tiny_model, **{"evaluation.limit": 0})
    with pytest.raises(LinchainError, match="--harness-include is for --harness"):
        shown(str(tiny_model), "--harness-include", "tasks")
    with pytest.raises(LinchainError, match="model folder runs/typo does not exist"):
        ask("runs/typo")
    AutoConfig.from_pretrained(tiny_model, architectures=["LlamaForSequenceClassification"]).save_pretrained(
        "classifier"
    )
    with pytest.raises(LinchainError, match="classifier is a sequence classifier"):
        ask("classifier")
    file = folder / "predictions" / f"{tiny_model.name}.tiny_choice.harness.jsonl"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(LinchainError, match=r"tiny_choice\.harness\.jsonl exists; name another with --output"):
        ask(tiny_model)
