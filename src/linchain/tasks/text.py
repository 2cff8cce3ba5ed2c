"""Plain text for language modelling: one example a record, every token learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linchain.tasks.formats import Format, Text, require_text
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextFormat(Format):
    name = "text"
    required = ("text",)

    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        return Text(((require_text(record, "text"), True),))
