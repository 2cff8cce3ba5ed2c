"""Conversations in ShareGPT's words: `{"from": "human", "value": …}` is a message of the role user."""

from __future__ import annotations

from typing import Any

from linchain.errors import LinchainError
from linchain.tasks.messages import MessagesFormat
from linchain.tasks.records import Record

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class SharegptFormat(MessagesFormat):
    name = "sharegpt"
    required = ("conversations",)

    def messages(self, record: Record) -> list[dict[str, str]]:
        turns = as_messages(record.fields["conversations"])
        if turns is None:
            raise LinchainError(
                f"{record.where}: column 'conversations' must be a list of objects with the text 'value' and 'from', one of "
                f"{', '.join(ROLES)}"
            )
        return turns


def as_messages(conversations: Any) -> list[dict[str, str]] | None:
    """The turns as messages with `role` and `content`; None where they are not ShareGPT's."""
    if not isinstance(conversations, list) or not all(_is_turn(turn) for turn in conversations):
        return None
    return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in conversations]


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("value"), str) and str(turn.get("from")) in ROLES
