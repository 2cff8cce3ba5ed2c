"""Data: files of every format, rows of every shape, and all that is made of them before a model is loaded."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.choices import Choices, scratch
from linchain import tasks
from linchain.errors import LinchainError
from linchain.tasks.answers import extract, matches
from linchain.tasks.encoding import encode_sentences, encode_texts, prompt_tokens
from linchain.tasks.formats import formats, get_format
from linchain.tasks.overlap import find_overlaps
from linchain.tasks.records import Record, read_records, rename_columns
from linchain.tasks.sentence_pair import find_labels
from linchain.tasks.sources import converted
from linchain.training.config import COLUMNS

NAMES = ("auto", *formats())
HUB_COLUMNS = (
    "question", "choices", "answerKey", "goal", "sol1", "sol2", "label", "context", "answerA", "answerB", "answerC",
    "sentence", "option1", "option2", "answer", "activity_label", "ctx", "endings", "options", "correct", "rationale",
    "query", "response", "type", "text", "sentence1", "sentence2", "score", "question1", "question2", "premise",
    "hypothesis", "problem", "solution", "level", "Body", "Question", "Answer", "lSolutions", "sQuestion", "page",
)  # fmt: skip
FOLDER = scratch()
# what a column holds where nothing odd is chosen
USUAL = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
    "label": 1,
}


class Tokenizer:
    """A token a byte, and the plainest chat template."""

    eos_token, eos_token_id, chat_template = "\0", 0, "plain"

    def __call__(self, *texts: Any, **_: Any) -> dict[str, Any]:
        """Tokens of one text, of a pair, or of a list of texts."""
        if isinstance(texts[0], list):
            return {"input_ids": [list(text.encode()) for text in texts[0]]}
        return {"input_ids": list("".join(text or "" for text in texts).encode())}

    def apply_chat_template(self, messages: list[dict], *, add_generation_prompt: bool, **_: Any) -> str:
        """Each turn as its role and content."""
        written = "".join(f"{one['role']}: {one['content']}\0" for one in messages)
        return written + ("assistant: " if add_generation_prompt else "")


def check(data: bytes) -> None:
    """One case. Nothing but LinchainError may come out of it."""
    choices = Choices(data)
    kind = choices.byte() % 8
    try:
        if kind == 0:
            _hub_row(choices)
        elif kind == 1:
            _answer(choices)
        else:
            _use(choices, read_records(str(_file(choices, kind)), "train", choices.byte() % 4 or None))
    except LinchainError as error:
        assert str(error).strip()  # noqa: PT017  it says what is wrong


def _hub_row(choices: Choices) -> None:
    task = choices.pick(tasks.registry())
    row = {choices.pick(HUB_COLUMNS): choices.value() for _ in range(choices.byte() % 8)}
    converted(Record(row, "row 1"), choices.pick((task.from_hub, task.from_folder)), task.name)


def _answer(choices: Choices) -> None:
    gold, kind = choices.text(), choices.pick((None, "number", "choice", "letter", "expression"))
    extraction = choices.pick(("standard", "paper"))
    text = choices.rest().decode("utf-8", "replace")
    extract(text, gold, kind, extraction)
    matches(text, gold, kind, extraction)


def _file(choices: Choices, kind: int) -> Path:
    """A file of bytes as they come, or of rows."""
    suffix = choices.pick((".jsonl", ".json", ".csv")) if kind < 7 or choices.byte() % 16 else ".parquet"
    path = FOLDER / f"data{suffix}"
    if kind == 2:
        path.write_bytes(choices.rest())
        return path
    rows = [_row(choices) for _ in range(1 + choices.byte() % 3)]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            writer.writerows([str(value).replace("\ud800", "") for value in row.values()] for row in rows)
    else:
        _write_parquet(path, rows, choices)
    return path


def _row(choices: Choices) -> dict[str, Any]:
    columns = choices.pick((("text",), ("instruction", "output"), ("messages",), ("sentence1", "label"), COLUMNS))
    row: dict[str, Any] = {column: USUAL.get(column, "a text") for column in columns}
    for _ in range(choices.byte() % 4):
        row[choices.pick(COLUMNS)] = choices.value(3)
    return row


def _write_parquet(path: Path, rows: list[dict[str, Any]], choices: Choices) -> None:
    try:
        pq.write_table(pa.Table.from_pylist(rows), path)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):  # what no Parquet file can hold
        path.write_bytes(b"PAR1")
    content = bytearray(path.read_bytes())
    for _ in range(choices.byte() % 4):
        content[choices.byte() * len(content) // 256] = choices.byte()
    path.write_bytes(content)


def _use(choices: Choices, records: list[Record]) -> None:
    """All that is made of records: the formats' texts, tokens, prompts, labels, and questions compared."""
    columns = {choices.pick(COLUMNS): choices.text() for _ in range(choices.byte() % 2)}
    records = rename_columns(records, columns)
    task = "sequence_classification" if choices.byte() % 4 == 1 or "label" in records[0].fields else "causal_lm"
    form = get_format(choices.pick(NAMES), records, task)
    tokenizer: Any = Tokenizer()
    if choices.byte() % 8 == 1:
        find_overlaps(records, {"test": records})
    if task == "causal_lm":
        encode_texts(records, form, tokenizer, 64)
        prompts = [form.question(record, tokenizer) for record in records]
        prompt_tokens(tokenizer, [prompt for prompt, _ in prompts])
    else:
        encode_sentences(records, find_labels(records), tokenizer, 64)
