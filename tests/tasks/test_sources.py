"""Where a task's data come from: a folder in either layout, the Hub, the generator."""

import json
import sys
import types

import pytest

from linchain import tasks
from linchain.errors import LinchainError
from linchain.tasks.answers import matches
from linchain.tasks.records import Record, read_records
from linchain.tasks.sources import find_source
from linchain.training.load_config import build_config
from tests.conftest import shared_dir

DATA = {"model": "starter", "output": "run"}


def test_every_file_of_the_jsonl_layout_has_the_records_that_the_task_states():
    folder = shared_dir() / "data"
    for task in tasks.registry():
        for split, here in task.splits.items():
            if here.jsonl is not None:
                with (folder / here.jsonl).open("rb") as lines:
                    assert sum(1 for _ in lines) == (here.jsonl_records or here.records), (task.name, split)
                (record,) = read_records(f"task:{task.name}", split, 1, str(folder))
                assert record.task == task.name
    named = {here.jsonl for task in tasks.registry() for here in task.splits.values()}
    assert {path.relative_to(folder).as_posix() for path in folder.glob("*/*.jsonl")} - named == {
        "instruct/alpaca_demo.train.jsonl"
    }


def test_a_checkout_of_llm_adapters_is_found_out_by_what_is_there(tmp_path):
    file = tmp_path / "dataset" / "SVAMP" / "test.json"
    file.parent.mkdir(parents=True)
    answers = [[22.0], "C", 4.5, [-3]]
    rows = [{"instruction": "q", "input": "", "output": "r", "answer": answer} for answer in answers]
    file.write_text(json.dumps(rows))
    records = read_records("task:svamp", "test", folder=str(tmp_path))
    assert [record.fields["answer"] for record in records] == ["22", "C", "4.5", "-3"]
    assert records[0].task == "svamp"


def test_an_answer_of_several_is_refused(tmp_path):
    file = tmp_path / "dataset" / "SVAMP" / "test.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([{"instruction": "q", "input": "", "output": "r", "answer": ["1", "2"]}]))
    with pytest.raises(
        LinchainError, match=r"test.json, record 1: no row as task svamp expects it \(ValueError: too many"
    ):
        read_records("task:svamp", "test", folder=str(tmp_path))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_mawps_teaches_is_right_by_its_metric(split):
    for record in read_records("task:mawps", split, folder=str(shared_dir() / "data")):
        assert matches(record.fields["output"], record.fields["answer"], "number"), record.where
    assert record.fields["output"].casefold().startswith("x=")


def test_mawps_of_llm_adapters_teaches_the_same_and_its_test_data_have_nothing_to_teach(tmp_path):
    (tmp_path / "dataset" / "mawps").mkdir(parents=True)
    row = {"instruction": "q", "input": "", "output": "X=(3.0*0.5)", "answer": [1.5]}
    (tmp_path / "dataset" / "mawps" / "trainset.json").write_text(json.dumps([row]))
    (tmp_path / "dataset" / "mawps" / "test.json").write_text(json.dumps([row | {"output": ""}]))
    (train,), (test,) = (read_records("task:mawps", split, folder=str(tmp_path)) for split in ("train", "test"))
    assert (train.fields["output"], test.fields["output"]) == ("X=(3.0*0.5). The answer is 1.5.", "")


@pytest.mark.parametrize(
    ("name", "row"), [("gsm8k", {"question": "q"}), ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": "x"})]
)
def test_a_row_of_the_hub_that_is_not_as_expected_is_named(name, row, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *name, split: [row]))
    with pytest.raises(
        LinchainError, match=rf"row 1: no row as task {name} expects it .*; its columns are: {', '.join(row)}"
    ):
        read_records(f"task:{name}", "test")


def test_without_a_folder_the_hub_is_asked_and_its_columns_become_ours(monkeypatch):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 2.5, "split": "test"}]
    seen = []
    load = types.SimpleNamespace(load_dataset=lambda *name, split: seen.append((*name, split)) or rows)
    monkeypatch.setitem(sys.modules, "datasets", load)
    assert read_records("task:stsb", "test") == [
        Record({"sentence1": "a", "sentence2": "b", "label": 2.5}, "mteb/stsbenchmark-sts:test, row 1", "stsb")
    ]
    assert seen == [("mteb/stsbenchmark-sts", None, "test")]


def test_rows_of_the_hub_that_are_no_records_are_left_out(monkeypatch):
    rows = [{"text": ""}, {"text": " = Title = \n"}]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *name, split: rows))
    assert [record.fields["text"] for record in read_records("task:wikitext", "test")] == [" = Title = \n"]


def test_the_starters_tasks_are_generated_whatever_the_folder():
    assert read_records("task:starter_two_step", "test", 3, "nowhere") == [
        Record(record.fields, record.where, "starter_two_step")
        for record in read_records("starter:two_step", "test", 3)
    ]


@pytest.mark.parametrize(
    ("task", "split", "folder", "message"),
    [
        ("cola", "validation", None, "task cola has no validation split, only train, test; hold training records back"),
        ("addsub", "test", None, "not on the Hub; name the folder that holds math/addsub.test.jsonl or dataset/AddSub"),
        ("piqa", "test", "missing", "data.folder: missing is no folder"),
        ("piqa", "test", "", r"does not have the test split of task piqa \(expected commonsense/piqa.test.jsonl or"),
        (
            "qqp",
            "test",
            "",
            r"\(it is in no folder layout\); without data.folder it is read from the Hub, as nyu-mll/glue",
        ),
    ],
)
def test_what_is_not_there_is_named(task, split, folder, message, tmp_path):
    with pytest.raises(LinchainError, match=message):
        find_source(tasks.get(task), split, str(tmp_path) if folder == "" else folder)


def test_an_unknown_task_is_refused_by_the_configuration_with_the_nearest_match():
    with pytest.raises(LinchainError, match=r"data.test: unknown task 'arc-easy'; did you mean 'arc_easy'"):
        build_config({**DATA, "data": {"train": "a.jsonl", "test": "task:arc-easy"}})


def test_a_named_task_decides_what_the_model_is_loaded_as():
    assert build_config({**DATA, "data": {"train": "task:stsb"}}).task == "sequence_classification"
    assert build_config({**DATA, "data": {"train": ["a.jsonl"], "test": ["task:gsm8k"]}}).task == "causal_lm"
