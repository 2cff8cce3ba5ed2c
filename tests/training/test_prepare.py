"""What is known of the data before a model is loaded."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from linchain.training.display import answers_line
from linchain.training.load_config import build_config
from linchain.training.prepare import prepare_data
from linchain.training.run import train


@pytest.fixture
def configure(tmp_path, tiny_model):
    """Builds the configuration of a run of one step on `train` questions, tested on `test` questions."""

    def build(train, test, validation=()):
        data = {}
        for name, questions in (("train", train), ("validation", validation), ("test", test)):
            rows = [{"instruction": text, "output": "5", "answer": "5"} for text in questions]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            data |= {name: str(tmp_path / f"{name}.jsonl")} if rows else {}
        return build_config(
            {
                "model": str(tiny_model),
                "method": {"name": "lora", "r": 2},
                "data": data,
                "training": {"max_steps": 1},
                "evaluation": {"max_new_tokens": 2},
                "output": str(tmp_path / "run"),
            }
        )

    return build


def test_answers_that_the_records_own_outputs_do_not_give_are_told(configure, tmp_path):
    config = configure(["a", "b"], ["c", "d"])
    assert answers_line(prepare_data(config).test) is None
    rows = [{"instruction": text, "output": "It is red.", "answer": "red"} for text in "cd"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "of 2 records to be scored, 2 would be wrong" in answers_line(prepare_data(config).test)


def test_overlap_is_reported_before_training_and_kept_with_the_run(configure, tmp_path):
    long = "one two three four five six seven eight nine ten"
    config = configure(["What is 2 + 3?", long], ["what is 2+3", "What is 2 - 3?", f"{long} eleven"])
    shown = io.StringIO()
    train(config, console=Console(file=shown, width=400))
    line = (
        "1 of 3 test questions are in the training data, and 1 nearly so "
        f"({tmp_path}/test.jsonl:1 is {tmp_path}/train.jsonl:1)"
    )
    assert line in shown.getvalue()
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    places = [f"{tmp_path}/test.jsonl:1", f"{tmp_path}/train.jsonl:1"]
    assert environment["overlap"] == [
        {"test": "test", "n": 3, "same": 1, "near": 1, "examples": [[*places, "what is 2+3"]]}
    ]


def test_test_questions_in_the_validation_data_are_reported_too(configure, tmp_path):
    config = configure(["What is 2 + 3?"], ["What is 2 - 3?", "What is 4 + 3?"], ["what is 2-3", "What is 1 + 1?"])
    shown = io.StringIO()
    train(config, console=Console(file=shown, width=400))
    assert "no test question is in the training data" in shown.getvalue()
    place = f"({tmp_path}/test.jsonl:1 is {tmp_path}/validation.jsonl:1)"
    assert f"1 of 2 test questions are in the validation data {place}" in shown.getvalue()
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert [(one["n"], one["same"]) for one in environment["overlap"]] == [(2, 0)]
    assert [(one["n"], one["same"]) for one in environment["validation_overlap"]] == [(2, 1)]


def test_each_task_of_the_test_data_has_its_own_overlap(configure):
    data = prepare_data(configure(["Add 2 and 3."], []))
    assert data.overlaps == ()
    data = prepare_data(configure(["What is 2 + 3?"], ["What is 2 + 3?"]))
    (record,) = data.records["train"]
    data.records["test"] = [replace(record, task="one"), record]
    assert [(overlap.test, overlap.n, overlap.same) for overlap in data.overlaps] == [("one", 1, 1), ("test", 1, 1)]
