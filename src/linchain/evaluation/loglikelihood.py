"""Scores multiple-choice questions by how probable the model finds each answer, without generating anything."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError
from linchain.tasks.encoding import IGNORE, Example, encode_texts
from linchain.tasks.formats import Format
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHOICES = re.compile(r"Answer format:\s*(\S+(?:/\S+)+)\s*$")


@dataclass(frozen=True)
class Question:
    """A question's choices, the gold one among them, and for each the prompt with it as an example to take the loss of.

    The loss is on the answer's tokens alone: neither on the prompt nor on an end of text, which no base model writes.
    """

    choices: tuple[str, ...]
    gold: str
    examples: tuple[Example, ...]

    @property
    def prompt(self) -> list[int]:
        """The tokens that the first choice follows."""
        first = self.examples[0]
        return [token for token, label in zip(first.input_ids, first.labels, strict=True) if label == IGNORE]  # type: ignore[arg-type]

    def answered(self, losses: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A prediction row from the mean loss and the number of tokens of each choice.

        The score, `correct`, goes by the sum of the tokens' log-probabilities, which is that of the whole answer;
        `correct_normalised` by their mean, for choices of different lengths. Both values of each choice are in the row.
        """
        means = [-row["loss"] for row in losses]
        sums = [mean * row["tokens"] for mean, row in zip(means, losses, strict=True)]
        best, best_normalised = (self.choices[values.index(max(values))] for values in (sums, means))
        return {
            "extracted": best,
            "answer": self.gold,
            "correct": best == self.gold,
            "correct_normalised": best_normalised == self.gold,
            "loglikelihood": dict(zip(self.choices, sums, strict=True)),
            "loglikelihood_per_token": dict(zip(self.choices, means, strict=True)),
        }


def encode_questions(records: Sequence[Record], format: Format, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Instructions that end in `Answer format: answer1/answer2`, as LLM-Adapters words them.

    A choice is written as the record's `output` is, with the gold answer in it replaced: "the correct answer is answer2".

    Raises LinchainError, naming the record, where it does not list its choices or the gold answer is none of them.
    """
    questions = []
    for record in records:
        choices, gold = _choices(record, format), record.fields["answer"]
        written = [_written(record.fields["output"], gold, choice) for choice in choices]
        texts = [replace(record, fields={**record.fields, "output": text}) for text in written]
        examples = encode_texts(texts, format, tokenizer, max_length=sys.maxsize)
        questions.append(Question(choices, gold, tuple(_without_end(one, tokenizer) for one in examples)))
    return questions


def _choices(record: Record, format: Format) -> tuple[str, ...]:
    found = _CHOICES.search(record.fields["instruction"]) if format.name == "instruction" else None
    if found is None:
        raise LinchainError(
            f"{record.where}: evaluation.scorer loglikelihood needs an instruction that lists its answers at the end, as "
            "'Answer format: answer1/answer2'"
        )
    choices = tuple(found.group(1).split("/"))
    if record.fields.get("answer") not in choices:
        raise LinchainError(
            f"{record.where}: the answer {record.fields.get('answer')!r} is none of {', '.join(choices)}"
        )
    return choices


def _written(output: str, gold: str, choice: str) -> str:
    before, found, behind = output.rpartition(gold)
    return f"{before}{choice}{behind}" if found else choice


def _without_end(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
    if example.input_ids[-1] != tokenizer.eos_token_id:
        return example
    return replace(example, input_ids=example.input_ids[:-1], labels=example.labels[:-1])  # type: ignore[index]
