import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linchain.errors import LinchainError
from linchain.tasks.records import read_records, rename_columns

ROWS = [{"text": "one, two"}, {"text": 'say "three"\nfour'}]


def write(folder, suffix):
    path = folder / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif suffix == ".csv":
        path.write_text('text\n"one, two"\n"say ""three""\nfour"\n')
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_records(tmp_path, suffix):
    records = read_records(str(write(tmp_path, suffix)), "train")
    assert [record.fields for record in records] == ROWS
    assert all(f"data{suffix}" in record.where for record in records)


def test_places_are_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [record.where for record in read_records(str(path), "train")] == [f"{path}:1", f"{path}:3"]


def test_limit_counts_over_all_files(tmp_path):
    path = str(write(tmp_path, ".jsonl"))
    assert len(read_records([path, path], "train", limit=3)) == 3


def test_renamed_columns_are_added(tmp_path):
    records = rename_columns(read_records(str(write(tmp_path, ".jsonl")), "train"), {"output": "text"})
    assert records[0].fields == {"text": "one, two", "output": "one, two"}
    with pytest.raises(LinchainError, match=r"data\.jsonl:1: data\.columns\.output names the column 'reply'.*: text$"):
        rename_columns(read_records(str(tmp_path / "data.jsonl"), "train"), {"output": "reply"})


def test_starter_splits_are_disjoint():
    from linchain import starter

    kind = f"starter:{starter.kinds()[0]}"
    splits = {split: read_records(kind, split, limit=50) for split in ("train", "validation", "test")}
    questions = {split: {record.fields["instruction"] for record in records} for split, records in splits.items()}
    assert not questions["train"] & questions["test"]
    assert questions["train"] != questions["validation"]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("owner/set", ("owner/set", None, "validation")),
        ("owner/set:test", ("owner/set", None, "test")),
        ("set:main:test", ("set", "main", "test")),
    ],
)
def test_hub_names(monkeypatch, name, call):
    seen = []

    def load_dataset(name, config, split):
        seen.append((name, config, split))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read_records(name, "validation")[1].where == f"{name}, row 2"
    assert seen == [call]


def test_a_task_without_its_prefix_is_recognised(monkeypatch):
    def load_dataset(name, config, split):
        raise FileNotFoundError("no such dataset")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(LinchainError, match=r"no such dataset; did you mean task:arc_easy\?"):
        read_records("arc_easy", "test")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_an_unreadable_file_is_named_with_the_reason(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(LinchainError, match=rf"data {path} cannot be read: Input/output error"):
        read_records(str(path), "train")
