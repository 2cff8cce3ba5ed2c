"""Sentence classification and regression (GLUE's shape): `sentence1`, `sentence2` (may be absent or null), `label`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError
from linchain.tasks.formats import Format, Text, require_text
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_LABEL = 3e38  # of float32, which labels are trained in
MOST_CLASSES = 2**16  # a head for more is no classifier's, and one label could ask for any amount of memory


class SentencePairFormat(Format):
    name = "sentence_pair"
    required = ("sentence1", "label")
    task = "sequence_classification"

    def check_values(self, record: Record) -> None:
        require_text(record, "sentence1")
        if record.fields.get("sentence2") is not None:
            require_text(record, "sentence2")
        label = record.fields["label"]
        if isinstance(label, bool) or not isinstance(label, int | float | str):
            raise LinchainError(
                f"{record.where}: column 'label' must be a whole number, a number or a class name, found {label!r:.40}"
            )
        if not isinstance(label, str) and not abs(label) <= LARGEST_LABEL:
            raise LinchainError(f"{record.where}: label {label!r:.40} is no number that can be learned")

    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        raise LinchainError("format 'sentence_pair' is for task sequence_classification")


@dataclass(frozen=True)
class Labels:
    """The classes of a classification task in the order of the model's outputs, or none for a regression.

    `mean` is that of the training labels of a regression, where they are at hand.
    """

    names: tuple[str, ...] | None
    mean: float | None = None

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return 1 if self.names is None else len(self.names)

    def encode(self, record: Record) -> int | float:
        """The record's label as class index or number; LinchainError where it is neither."""
        value = record.fields["label"]
        if self.names is None:
            number = _number(value)
            if number is None:
                raise LinchainError(f"{record.where}: label {value!r} is not a number, but the task is a regression")
            return number
        if str(value) not in self.names:
            raise LinchainError(f"{record.where}: label {value!r} is none of the classes: {', '.join(self.names)}")
        return self.names.index(str(value))


def find_labels(records: Sequence[Record]) -> Labels:
    """The labels of training data.

    Whole numbers are classes 0 … max, other numbers a regression, and texts class names (in alphabetical order). CSV
    files hold text only, so a text that reads as a number counts as one.
    """
    values = [record.fields["label"] for record in records]
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        return _at_least_two({str(value) for value in values})
    known = [number for number in numbers if number is not None]
    if any(isinstance(number, float) for number in known):
        return Labels(None, mean=statistics.fmean(known))
    classes = [int(number) for number in known]
    if min(classes) < 0:
        place = records[classes.index(min(classes))].where
        raise LinchainError(f"{place}: label {min(classes)} is negative; classes are whole numbers from 0")
    if max(classes) >= MOST_CLASSES:
        place = records[classes.index(max(classes))].where
        raise LinchainError(
            f"{place}: label {max(classes)} is too large; classes are whole numbers below {MOST_CLASSES:,}"
        )
    return _at_least_two({str(index) for index in range(max(classes) + 1)}, key=int)


def _at_least_two(names: set[str], key: Any = None) -> Labels:
    if len(names) < 2:
        raise LinchainError(f"all training labels are {next(iter(names))!r}; a classifier needs at least two classes")
    return Labels(tuple(sorted(names, key=key)))


def _number(value: Any) -> int | float | None:
    if isinstance(value, int | float):
        return value
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if abs(number) <= LARGEST_LABEL:  # "nan" and "inf" are names
            return number
    return None
