"""A prompt and its completion, as TRL has them: the two texts as they are, without a template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linchain.errors import LinchainError
from linchain.tasks.formats import Format, Text, require_text
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptCompletionFormat(Format):
    name = "prompt_completion"
    required = ("prompt", "completion")

    def check_values(self, record: Record) -> None:
        super().check_values(record)
        if record.fields.get("answer") is not None:
            require_text(record, "answer")

    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        if not record.fields["completion"].strip():
            raise LinchainError(f"{record.where}: column 'completion' is empty, so there is nothing to learn")
        return Text(((record.fields["prompt"], False), (record.fields["completion"], True)))

    def question(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[Text, str]:
        gold = record.fields.get("answer") or record.fields["completion"]
        if not gold.strip():
            raise LinchainError(f"{record.where}: neither 'answer' nor 'completion' holds an answer to compare with")
        return Text(((record.fields["prompt"], False),)), gold
