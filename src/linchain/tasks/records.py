"""Reads records from tasks, JSON, JSONL, CSV and Parquet files, the starter's generated data, and the Hub."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linchain.errors import LinchainError
from linchain.paths import user_path

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
STARTER = "starter:"
TASK = "task:"
PARQUET_ROWS = 1000  # that are taken apart at a time
# How many problems `starter:<kind>` generates where no limit is given.
STARTER_SIZES = {"train": 2000, "validation": 200, "test": 400}

# An escaped half of a pair of surrogates: alone it is no letter, and nothing that writes or tokenises text takes it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+){0,2}")


@dataclass(frozen=True)
class Record:
    """One record: its fields, and where it came from (`file.jsonl:12`) for messages and predictions.

    `task` names the task whose data it was read from, if it was read by a task's name.
    """

    fields: dict[str, Any]
    where: str
    task: str | None = None


def read_records(
    source: str | Sequence[str], split: str, limit: int | None = None, folder: str | None = None
) -> list[Record]:
    """The records of `source`: `task:<name>`, one or several files, `starter:<kind>`, or a Hub name `NAME[:CONFIG][:SPLIT]`.

    `split` (train, validation or test) chooses the part of a task and of starter data and the Hub's default split; files
    ignore it. `limit` keeps the first so many records. `folder` is where the data of tasks lie (see `linchain.tasks.sources`).

    Raises LinchainError for a missing or unreadable file, a malformed line (with its number), an unknown format, an unknown
    task or one without such a split, or no records.
    """
    sources = [source] if isinstance(source, str) else list(source)
    records: list[Record] = []
    for one in sources:
        try:
            for record in open_source(one, split, limit, folder):
                if limit is not None and len(records) >= limit:
                    break
                records.append(record)
        except OSError as error:
            raise LinchainError(f"data {one} cannot be read: {error.strerror or error}") from error
    if not records:
        raise LinchainError(f"{', '.join(sources)}: no records")
    return records


def rename_columns(records: list[Record], columns: dict[str, str]) -> list[Record]:
    """Records with the field `name` taken from column `columns[name]`, for data that names its columns otherwise.

    Those of tasks have our columns already, and stay as they are.
    """
    if not columns:
        return records
    renamed = []
    for record in records:
        if record.task is not None:
            renamed.append(record)
            continue
        for name, column in columns.items():
            if column not in record.fields:
                raise LinchainError(
                    f"{record.where}: data.columns.{name} names the column {column!r}, which is not there; "
                    f"the columns are: {', '.join(record.fields)}"
                )
        taken = {name: record.fields[column] for name, column in columns.items()}
        renamed.append(replace(record, fields={**record.fields, **taken}))
    return renamed


def open_source(source: str, split: str, limit: int | None = None, folder: str | None = None) -> Iterator[Record]:
    """The records of one source, read as they are asked for; arguments and errors as in `read_records`."""
    if source.startswith(TASK):
        from linchain.tasks.sources import read_task

        return read_task(source.removeprefix(TASK), split, limit, folder)
    if source.startswith(STARTER):
        return _read_starter(source, split, limit)
    path = user_path(source)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise LinchainError(f"{source}: unknown file format {path.suffix!r}; accepted: {', '.join(SUFFIXES)}")
        return _READERS[path.suffix.lower()](path)
    if path.is_dir():
        raise LinchainError(f"{source} is a folder; name one or several files ({', '.join(SUFFIXES)})")
    if path.suffix.lower() in SUFFIXES or not _HUB_NAME.fullmatch(source):
        raise LinchainError(f"data file {source} does not exist")
    return _read_hub(source, split)


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            yield _record(_parsed(line, where), where)


def _read_json(path: Path) -> Iterator[Record]:
    content = _parsed(path.read_bytes(), str(path))
    if not isinstance(content, list):
        raise LinchainError(f"{path}: expected a list of records, found {type(content).__name__}")
    for number, fields in enumerate(content, 1):
        yield _record(fields, f"{path}, record {number}")


def _parsed(text: bytes, where: str) -> Any:
    """The JSON in `text`; LinchainError names the place, with the line where there are several."""
    try:
        decoded = text.decode("utf-8-sig")
        content = json.loads(decoded)
        if _SURROGATE.search(decoded):
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""
        raise LinchainError(f"{where}{line}: not valid JSON ({error.msg})") from error
    except UnicodeEncodeError as error:
        raise LinchainError(f"{where}: holds half a character (an unpaired surrogate such as \\ud800)") from error
    except UnicodeDecodeError as error:
        raise LinchainError(f"{where}: not valid UTF-8 ({error})") from error
    except ValueError as error:  # a number of thousands of digits
        raise LinchainError(f"{where}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise LinchainError(f"{where}: JSON nested too deeply") from error
    return content


def _record(fields: Any, where: str) -> Record:
    if not isinstance(fields, dict):
        raise LinchainError(f"{where}: expected an object with named fields, found {type(fields).__name__}")
    return Record(fields, where)


def _read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long text
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        try:
            for row in reader:
                if header is None:
                    header = row
                elif len(row) == len(header):
                    yield Record(dict(zip(header, row, strict=True)), f"{path}:{reader.line_num}")
                elif row:
                    raise LinchainError(
                        f"{path}:{reader.line_num}: {len(row)} fields where the header has {len(header)}"
                    )
        except csv.Error as error:
            raise LinchainError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise LinchainError(f"{path}: not valid UTF-8, after line {reader.line_num} ({error})") from error


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(fields, f"{path}, row {number}")
    # the last ones: text that is no UTF-8, dates that Python has not
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise LinchainError(f"{path}: not a valid Parquet file ({error})") from error


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}


def _read_starter(source: str, split: str, limit: int | None) -> Iterator[Record]:
    from linchain import starter

    kind = source.removeprefix(STARTER)
    # The starter knows two splits, train and test, with disjoint templates, names and numbers: validation data are
    # train data of another seed.
    part, seed = ("train", 1) if split == "validation" else (split, 0)
    for fields in starter.problems(kind, part, n=limit or STARTER_SIZES[split], seed=seed):
        yield Record(fields, f"{source} {fields['id']}")


def _read_hub(source: str, split: str) -> Iterator[Record]:
    import datasets

    from linchain import tasks

    name, *rest = source.split(":")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else split
    try:
        dataset = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets, huggingface_hub and fsspec each raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"; did you mean {TASK}{source}?" if source in tasks.names() else ""
        raise LinchainError(
            f"data {source!r} is neither a file nor a dataset that the Hub gave (split {split!r}): {reason}{hint}"
        ) from error
    for number, fields in enumerate(dataset, 1):
        yield Record(dict(fields), f"{source}, row {number}")
