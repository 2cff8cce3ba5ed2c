"""Every shipped recipe is valid; those whose model and data are at hand make their first steps."""

import json
from pathlib import Path

import pytest

from linchain.training.load_config import load_config
from linchain.training.run import train
from tests.conftest import shared_dir

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(recipe):
    config = load_config(recipe)
    assert config.output == f"runs/{recipe.stem}"
    assert config.data.train


def test_paper_recipe_has_the_papers_protocol():
    config = load_config(ROOT / "recipes" / "commonsense-llama3-8b.yaml")
    training = config.training
    assert training.batch_size * training.gradient_accumulation_steps == 16
    assert (training.epochs, training.learning_rate, training.warmup_steps) == (3, 3e-4, 100)
    assert config.method.options["r"] == 16
    assert config.data.train_on_prompt


def test_bone_recipe_has_the_papers_protocol():
    config = load_config(ROOT / "recipes" / "metamath-llama2-7b.yaml")
    training = config.training
    assert training.batch_size * training.gradient_accumulation_steps == 64
    assert (training.epochs, training.learning_rate, training.lr_scheduler) == (1, 2e-5, "cosine")
    assert (config.method.name, config.method.options["r"]) == ("bone-col", 64)
    assert (config.data.limit, config.data.max_length) == (395_000, 512)


@pytest.mark.parametrize("name", ["demo", "chat", "instruction", "wikitext-stories260k"])
def test_recipe_makes_its_first_steps(name, tmp_path, monkeypatch):
    path = ROOT / "recipes" / f"{name}.yaml"
    if "../shared" in path.read_text():
        shared_dir()
    monkeypatch.chdir(ROOT)  # paths in recipes start at the repository's root
    overrides = ["training.max_steps=2", "evaluation.limit=4", "data.validation_size=", f"output={tmp_path / 'run'}"]
    result = train(load_config(path, overrides))
    assert result["steps"] == 2


def test_real_conversations_with_the_shipped_chat_template(tmp_path, monkeypatch):
    shared = shared_dir()
    rows = [json.loads(line) for line in (shared / "data/instruct/alpaca_demo.train.jsonl").open(encoding="utf-8")]
    turns = [(row["instruction"] + row["input"], row["output"]) for row in rows[:12]]
    chat = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in turns]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in chat), encoding="utf-8")
    monkeypatch.chdir(ROOT)
    overrides = [
        f"model={{name: {shared / 'models/stories260k'}, chat_template: recipes/chatml.jinja}}",
        f"data.train={data}",
        f"data.test={data}",
        "training={max_steps: 8, learning_rate: 3e-3}",
        f"output={tmp_path / 'run'}",
    ]
    result = train(load_config(ROOT / "recipes" / "chat.yaml", overrides))
    assert result["format"] == "messages"
    assert result["scores"]["after"][0]["value"] < result["scores"]["before"][0]["value"]
