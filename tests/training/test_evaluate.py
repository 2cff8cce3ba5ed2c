"""Training and evaluating by every format, through the functions that the commands call."""

import json
import random

import pytest

from linchain.errors import LinchainError
from linchain.training.evaluate import Question, evaluate_target, resolve, settings_for
from linchain.training.load_config import build_config
from linchain.training.run import train

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path, tiny_model, monkeypatch):
    """Trains the tiny model on `rows`, tests it on the same rows, and returns the result; the run lies in `run`."""
    monkeypatch.chdir(tmp_path)

    def start(rows, steps=40, **values):
        data = write(tmp_path / "data.jsonl", rows)
        values.setdefault("model", str(tiny_model))
        values.setdefault("method", {"name": "linchain", "r": 8, "target_modules": "all-linear"})
        training = {"max_steps": steps, "batch_size": 8, "learning_rate": 2e-2, "logging_steps": 1}
        return train(
            build_config(
                {
                    "data": {"train": data, "test": data},
                    "training": training,
                    "output": "run",
                    **values,
                }
            )
        )

    return start


def after(result):
    return {score["name"]: score["value"] for score in result["scores"]["after"]}


def before(result):
    return {score["name"]: score["value"] for score in result["scores"]["before"]}


def test_a_run_and_its_adapter_score_as_at_the_end_of_training(run, tmp_path, tiny_model):
    rows = [{"instruction": f"say {i}", "output": "blue", "answer": "blue"} for i in range(8)]
    result = run(rows, evaluation={"max_new_tokens": 6})
    assert result["metric"] == "exact_match"
    assert (before(result)["exact_match"], after(result)["exact_match"]) == (0.0, 1.0)
    of_run = evaluate_target(Question("run", None, {}))
    assert [score.value for score in of_run.scores] == [1.0]
    assert of_run.predictions == tmp_path.relative_to(tmp_path) / "run/predictions/data.exact_match.jsonl"
    rows = [json.loads(line) for line in of_run.predictions.read_text().splitlines()]
    assert [row["extracted"] for row in rows] == ["blue"] * 8
    options = {"data.test": ["data.jsonl"], "evaluation.max_new_tokens": 6}
    of_adapter = evaluate_target(Question("run/adapter", None, options))
    assert [score.value for score in of_adapter.scores] == [1.0]
    of_base = evaluate_target(Question(str(tiny_model), None, options))
    assert [score.value for score in of_base.scores] == [0.0]
    with pytest.raises(LinchainError, match="exists; name another with --output"):
        evaluate_target(Question("run", None, {}))


def test_other_data_of_another_kind_may_be_given_to_a_run(run, tmp_path):
    run([{"instruction": "say", "output": "blue", "answer": "blue"}] * 2, steps=1, evaluation={"max_new_tokens": 6})
    text = write(tmp_path / "text.jsonl", [{"text": "one two three"}])
    asked = Question("run", None, {"data.test": [text]})
    answer = evaluate_target(asked)
    assert [score.name for score in answer.scores] == ["loss", "perplexity"]
    assert settings_for(resolve(asked), asked).evaluation.max_new_tokens is None


def test_a_run_with_columns_of_its_own_is_tested_on_tasks_and_on_data_in_ours(run, tmp_path):
    data = write(tmp_path / "own.jsonl", [{"q": "say", "a": "blue"}] * 2)
    (tmp_path / "math").mkdir()
    ours = {"instruction": "say", "input": "", "output": "1", "answer": "1"}
    in_ours = write(tmp_path / "math/gsm8k.test.jsonl", [ours] * 3)
    asked = {
        "train": data,
        "test": [data, "task:gsm8k"],
        "columns": {"instruction": "q", "output": "a", "answer": "a"},
        "folder": str(tmp_path),
    }
    result = run([], steps=1, data=asked, evaluation={"max_new_tokens": 2})
    assert {score["task"]: score["n"] for score in result["scores"]["after"]} == {None: 2, "gsm8k": 3, "mean": 5}
    for source, count in ((data, 2), (in_ours, 3), ("task:gsm8k", 3)):
        options = {"data.test": [source], "evaluation.max_new_tokens": 2}
        (score,) = evaluate_target(Question("run", None, options)).scores
        assert (score.name, score.n) == ("exact_match", count)


def test_predictions_are_named_after_all_of_the_data_and_after_how_answers_were_read(run, tmp_path):
    rows = [{"instruction": "say", "output": "1", "answer": "1"}] * 2
    run(rows, steps=1, evaluation={"max_new_tokens": 2})
    other = write(tmp_path / "other.jsonl", rows)
    names = []
    for sources, extraction in (
        (["data.jsonl"], "standard"),
        (["data.jsonl", other], "standard"),
        (["data.jsonl"], "paper"),
    ):
        options = {"data.test": sources, "evaluation.extraction": extraction, "evaluation.max_new_tokens": 2}
        names.append(evaluate_target(Question("run", None, options)).predictions.name)
    assert names == ["data.exact_match.jsonl", "data+other.exact_match.jsonl", "data.exact_match.paper.jsonl"]


def test_chat_learns_the_assistants_turns(run, tmp_path, tiny_model):
    (tmp_path / "chat.jinja").write_text(CHATML)
    rows = [
        {"messages": [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Hello"}]}
        for i in range(8)
    ]
    model = {"name": str(tiny_model), "chat_template": "chat.jinja"}
    result = run(rows, model=model)
    assert after(result)["loss"] < 0.1 < before(result)["loss"]
    # the template went into the adapter's folder with the tokenizer
    answer = evaluate_target(Question("run/adapter", None, {"data.test": ["data.jsonl"]}))
    assert answer.scores[0].value == pytest.approx(after(result)["loss"], rel=1e-5)


def test_classification_learns_and_its_adapter_knows_its_classes(run):
    rows = [
        {"sentence1": f"{word} {i}", "sentence2": None, "label": label}
        for i in range(8)
        for word, label in (("good", "yes"), ("bad", "no"))
    ]
    result = run(rows, task="sequence_classification")
    assert result["metric"] == "accuracy"
    assert after(result)["accuracy"] == 1.0
    answer = evaluate_target(
        Question("run/adapter", None, {"data.test": ["data.jsonl"], "evaluation.metric": "matthews"})
    )
    assert answer.scores[0].value == 1.0
    first = json.loads(answer.predictions.read_text().splitlines()[0])
    assert (first["label"], first["prediction"]) == ("yes", "yes")


def test_regression_learns(run):
    generator = random.Random(0)
    rows = [
        {"sentence1": "word " * n, "sentence2": "", "label": float(n)} for n in generator.choices(range(1, 8), k=24)
    ]
    result = run(rows, steps=60, task="sequence_classification")
    assert result["metric"] == "pearson"
    assert after(result)["pearson"] > 0.9


def test_accumulation_of_a_regression_equals_one_large_batch(run, tmp_path):
    rows = [{"sentence1": "word " * n, "sentence2": "", "label": float(n)} for n in range(8)]
    for row in rows:
        row["label"] += 0.5
    losses = []
    for batch, accumulated in ((8, 1), (2, 4)):
        run(
            rows,
            task="sequence_classification",
            training={
                "max_steps": 3,
                "batch_size": batch,
                "gradient_accumulation_steps": accumulated,
                "logging_steps": 1,
            },
            output=f"run{batch}",
        )
        lines = (tmp_path / f"run{batch}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_on_tasks_is_scored_by_each_tasks_own_metric(run, tmp_path):
    generator = random.Random(0)
    (tmp_path / "glue").mkdir()
    for split, count in (("train", 8), ("validation", 6), ("test", 6)):
        rows = [
            {"idx": i, "sentence1": "word " * n, "sentence2": "word", "label": n + 0.5}
            for i, n in enumerate(generator.choices(range(1, 8), k=count))
        ]
        write(tmp_path / "glue" / f"stsb.{split}.jsonl", rows)
    source = "task:stsb"
    result = run(
        [],
        steps=1,
        data={"train": source, "validation": source, "test": source, "folder": str(tmp_path)},
        evaluation={"score_validation": True, "limit": 4},
    )
    assert (result["task"], result["metric"]) == ("sequence_classification", "pearson")
    assert {len(result["scores"][stage]) for stage in ("before", "validation", "after")} == {2}
    scored = [(score["task"], score["name"], score["n"]) for score in result["scores"]["validation"]]
    assert scored == [("stsb", "pearson", 4), ("stsb", "spearman", 4)]
    answer = evaluate_target(Question("run", None, {}))
    assert [score.value for score in answer.scores] == list(after(result).values())


def test_a_run_is_scored_on_several_tasks_by_either_scorer(run, tmp_path):
    (tmp_path / "commonsense").mkdir()
    for name, word in (("piqa", "solution"), ("winogrande", "option")):
        rows = [
            {
                "instruction": f"{i}? Answer format: {word}1/{word}2",
                "input": "",
                "output": f"the correct answer is {word}{1 + i % 2}",
                "answer": f"{word}{1 + i % 2}",
            }
            for i in range(3)
        ]
        data = write(tmp_path / "commonsense" / f"{name}.test.jsonl", rows)
    asked = {"train": data, "test": ["task:piqa", "task:winogrande"], "folder": str(tmp_path)}
    result = run([], steps=1, data=asked, evaluation={"scorer": "loglikelihood"})
    found = [(score["task"], score["name"], score["n"]) for score in result["scores"]["after"]]
    assert found == [("piqa", "accuracy", 3), ("winogrande", "accuracy", 3), ("mean", "accuracy", 6)]
    generated = evaluate_target(Question("run", None, {"evaluation.scorer": "generate", "evaluation.limit": 2}))
    assert [(score.task, score.name, score.n) for score in generated.scores] == [
        ("piqa", "exact_match", 2),
        ("winogrande", "exact_match", 2),
        ("mean", "exact_match", 4),
    ]


def test_a_quantised_base_takes_the_place_of_one_quantised_for_the_adapter(tmp_path, tiny_model):
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    for folder in (adapter, base):
        folder.mkdir()
    fields = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_model), "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    (adapter / "quantization.json").write_text(json.dumps({"quantization": "nf4", "dtype": "auto"}))
    config = json.loads((tiny_model / "config.json").read_text())
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(config | stored))
    asked = [resolve(Question(str(adapter), model, {})).settings["model"] for model in (None, str(base))]
    assert [keys["quantization"] for keys in asked] == ["nf4", None]
