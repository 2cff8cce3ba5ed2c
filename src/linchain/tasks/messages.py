"""Conversations: the tokenizer's chat template, with the assistant's turns learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, first_line
from linchain.tasks.formats import Format, Text
from linchain.tasks.records import Record
from linchain.time_limit import LONGEST, time_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MessagesFormat(Format):
    name = "messages"
    required = ("messages",)

    def messages(self, record: Record) -> list[dict[str, Any]]:
        """The turns, each with `role` and `content`. LinchainError where the record holds something else."""
        messages = record.fields["messages"]
        if not isinstance(messages, list) or not all(is_message(message) for message in messages):
            raise LinchainError(
                f"{record.where}: column 'messages' must be a list of objects with the texts 'role' and 'content'"
            )
        return messages

    def check_values(self, record: Record) -> None:
        if not any(message["role"] == "assistant" for message in self.messages(record)):
            raise LinchainError(f"{record.where}: no message has the role 'assistant', so there is nothing to learn")

    def text(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> Text:
        """Each assistant turn is what the template adds between "prompt for the assistant" and "turn finished".

        What it adds after the end-of-text token (a newline, say) is never generated and therefore not learned. A template
        that writes earlier turns differently once later ones follow has no such prefixes, and is refused.
        """
        messages = self.messages(record)
        pieces: list[tuple[str, bool]] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = _render(tokenizer, messages[:index], True, record.where)
            finished = _render(tokenizer, messages[: index + 1], False, record.where)
            if not prompt.startswith(done) or not finished.startswith(prompt):
                raise LinchainError(
                    f"{record.where}: the chat template rewrites earlier turns, so the assistant's turns cannot be "
                    "told apart; end the conversations after their first assistant turn, or use another template "
                    "(model.chat_template)"
                )
            turn = finished[len(prompt) :]
            end = _end_of_text(turn, tokenizer.eos_token)
            pieces += [(prompt[len(done) :], False), (turn[:end], True), (turn[end:], False)]
            done = finished
        return Text(tuple(piece for piece in pieces if piece[0]), complete=True)

    def question(self, record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[Text, str]:
        messages = self.messages(record)
        last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
        prompt = _render(tokenizer, messages[:last], True, record.where)
        return Text(((prompt, False),), complete=True), messages[last]["content"]


def is_message(message: Any) -> bool:
    """Whether `message` is an object with the texts `role` and `content`."""
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _end_of_text(turn: str, eos: str | None) -> int:
    """Where the last end-of-text token of `turn` ends; its length where it has none."""
    return turn.rindex(eos) + len(eos) if eos and eos in turn else len(turn)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict], prompt: bool, where: str) -> str:
    if not tokenizer.chat_template:
        raise LinchainError(
            "conversations need a chat template and the model's tokenizer has none; name a Jinja file with "
            "model.chat_template, of evaluate --chat-template (recipes/chatml.jinja is one)"
        )
    try:
        with time_limit(f"it computes for more than {LONGEST:g} s"):
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except Exception as error:  # a template raises what it likes: jinja2.TemplateError, TypeError, KeyError
        raise LinchainError(f"{where}: the chat template refuses these messages: {first_line(error)}") from error
