"""What a data format is, and the choice of one by name or by the columns of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from linchain.errors import LinchainError, unknown_name
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Text:
    """A record as text for a causal LM: pieces in order, each with whether it is learned (part of the answer).

    `complete` is False where the tokenizer still has to add its own special tokens around the text (a beginning-of-text
    token, and an end-of-text token after an answer); a chat template has written them already.
    """

    pieces: tuple[tuple[str, bool], ...]
    complete: bool = False


class Format(ABC):
    """How one shape of records becomes text. One subclass a format, in a file of its own."""

    name: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    task: ClassVar[str] = "causal_lm"

    def check(self, record: Record) -> None:
        """Raise LinchainError where `record` lacks a required column or holds the wrong type of value in it."""
        for column in self.required:
            if column not in record.fields:
                raise LinchainError(
                    f"{record.where}: format {self.name!r} needs the column {column!r}; the columns are: "
                    f"{', '.join(record.fields)} (map one with data.columns.{column}=<its name>, of "
                    f"evaluate --columns {column}=<its name>)"
                )
        self.check_values(record)

    def check_values(self, record: Record) -> None:
        """Raise LinchainError for a value of the wrong type; strings in all required columns by default."""
        for column in self.required:
            require_text(record, column)

    @abstractmethod
    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        """The record as text to learn from."""

    def question(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[Text, str]:
        """The prompt to generate from, and the gold answer. Raises LinchainError where the format has none."""
        raise LinchainError(f"format {self.name!r} has no question and answer to generate and compare")


def require_text(record: Record, column: str) -> str:
    """The string in `column`; LinchainError names the place and the type where it is something else."""
    value = record.fields[column]
    if not isinstance(value, str):
        raise LinchainError(f"{record.where}: column {column!r} must be text, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r:.40}"


def formats() -> dict[str, Format]:
    """Every format by name, the more specific before the more general (the order of detection)."""
    from linchain.tasks.instruction import InstructionFormat
    from linchain.tasks.messages import MessagesFormat
    from linchain.tasks.prompt_completion import PromptCompletionFormat
    from linchain.tasks.sentence_pair import SentencePairFormat
    from linchain.tasks.sharegpt import SharegptFormat
    from linchain.tasks.text import TextFormat

    known = (
        MessagesFormat(), SharegptFormat(), SentencePairFormat(), InstructionFormat(), PromptCompletionFormat(), TextFormat(),
    )  # fmt: skip
    return {format.name: format for format in known}


def get_format(name: str, records: list[Record], task: str) -> Format:
    """The format called `name`, or for `"auto"` the one whose required columns the first record has.

    Raises LinchainError where none fits, where a record does not fit the format, or where the format is for another
    task (`causal_lm` or `sequence_classification`) than `task`.
    """
    known = formats()
    if name == "auto":
        format = _detect(known, records[0])
    elif name in known:
        format = known[name]
    else:
        raise unknown_name("data.format", name, ["auto", *known])
    if format.task != task:
        raise LinchainError(f"format {format.name!r} is for task {format.task}, but task is {task}")
    for record in records:
        format.check(record)
    return format


def _detect(known: dict[str, Format], record: Record) -> Format:
    for format in known.values():
        if all(column in record.fields for column in format.required):
            return format
    wanted = "; ".join(f"{format.name} ({', '.join(format.required)})" for format in known.values())
    raise LinchainError(
        f"{record.where}: no data format fits the columns {', '.join(record.fields)}. The formats and the columns that "
        f"they need: {wanted}. Map columns with data.columns.<needed>=<its name> (of evaluate: --columns <needed>=<its name>)"
    )
