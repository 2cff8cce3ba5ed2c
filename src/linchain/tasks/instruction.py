"""Instruction, optional input, output: the Alpaca prompt in the words of the papers' code, without its indentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linchain.errors import LinchainError
from linchain.tasks.formats import Format, Text, require_text
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def instruction_prompt(instruction: str, input: str | None = None) -> str:
    """What a model trained on instructions is asked: the text up to and with `### Response:` and its newline."""
    template = WITH_INPUT if input else WITHOUT_INPUT
    return template.format(instruction=instruction, input=input)


class InstructionFormat(Format):
    name = "instruction"
    required = ("instruction", "output")

    def check_values(self, record: Record) -> None:
        super().check_values(record)
        for column in ("input", "answer"):
            if record.fields.get(column) is not None:
                require_text(record, column)

    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        if not record.fields["output"].strip():
            raise LinchainError(f"{record.where}: column 'output' is empty, so there is nothing to learn")
        return Text(((self.prompt(record), False), (record.fields["output"], True)))

    def question(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[Text, str]:
        gold = record.fields.get("answer") or record.fields["output"]
        if not gold.strip():
            raise LinchainError(f"{record.where}: neither 'answer' nor 'output' holds an answer to compare with")
        return Text(((self.prompt(record), False),)), gold

    @staticmethod
    def prompt(record: Record) -> str:
        return instruction_prompt(record.fields["instruction"], record.fields.get("input"))
