"""From text to tokens with a loss mask, and from examples to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from linchain.errors import LinchainError
from linchain.tasks.formats import Format, Text
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
# How many of the refused places an error lists before "and N more".
SHOWN_PLACES = 10


@dataclass(frozen=True)
class Example:
    """One tokenised record.

    `labels` are the input tokens with IGNORE where nothing is learned (causal LM), or one class index or number
    (classification, regression). `cut` says that the record was longer than `max_length`. `segments` says for each
    token which sentence of a pair it is of (BERT's token types); None where the tokenizer tells no difference.
    """

    input_ids: list[int]
    labels: list[int] | int | float
    where: str
    cut: bool
    segments: list[int] | None = None


def encode_texts(
    records: Sequence[Record],
    format: Format,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    train_on_prompt: bool = False,
) -> list[Example]:
    """Records as examples for a causal LM, cut to `max_length` tokens, with the loss on learned pieces only.

    `train_on_prompt` puts the loss on every token (the papers' protocol). The boundary between a prompt and an answer
    is where the tokens of the prompt alone and those of the whole text part, so that training and generation see the
    same prompt.

    Raises LinchainError, with their places, for examples without any token to learn (a prompt of `max_length` or more).
    """
    texts = [format.text(record, tokenizer) for record in records]
    beginnings = [
        "".join(piece for piece, _ in text.pieces[:end]) for text in texts for end in range(1, len(text.pieces) + 1)
    ]
    tokens = iter(tokenize(tokenizer, beginnings, texts[0].complete))
    examples = []
    for record, text in zip(records, texts, strict=True):
        parts = [next(tokens) for _ in text.pieces]
        whole = parts[-1]
        mask: list[bool] = []
        for part, (_, learned) in zip(parts, text.pieces, strict=True):
            mask += [learned or train_on_prompt] * (_common(part, whole) - len(mask))
        if not text.complete and tokenizer.eos_token_id is not None:
            whole, mask = [*whole, tokenizer.eos_token_id], [*mask, True]
        labels = [token if learned else IGNORE for token, learned in zip(whole, mask, strict=True)]
        examples.append(Example(whole[:max_length], labels[:max_length], record.where, len(whole) > max_length))
    _refuse_nothing_to_learn(examples, max_length)
    return examples


def encode_sentences(
    records: Sequence[Record], labels: Labels, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    """Records of sentence pairs as examples for a sequence classifier, the longer sentence cut first."""
    examples = []
    for record in records:
        fields = record.fields
        sentences = (fields["sentence1"], fields.get("sentence2"))
        encoded = tokenizer(*sentences)
        cut = len(encoded["input_ids"]) > max_length
        if cut:
            encoded = tokenizer(*sentences, truncation=True, max_length=max_length)
        segments = encoded.get("token_type_ids")
        # all zero is what a model with segments assumes, and what one without them can be spared
        segments = list(segments) if segments and any(segments) else None
        examples.append(Example(list(encoded["input_ids"]), labels.encode(record), record.where, cut, segments))
    return examples


def tokenize(tokenizer: PreTrainedTokenizerBase, strings: list[str], complete: bool) -> list[list[int]]:
    """Tokens of each string: with the tokenizer's own beginning unless `complete`, never with an end-of-text token."""
    rows = tokenizer(strings, add_special_tokens=not complete)["input_ids"]
    if complete:
        return rows
    return [row[:-1] if len(row) > 1 and row[-1] == tokenizer.eos_token_id else row for row in rows]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text]) -> list[list[int]]:
    """Tokens of prompts to generate from, the same as in training."""
    return tokenize(
        tokenizer, ["".join(piece for piece, _ in prompt.pieces) for prompt in prompts], prompts[0].complete
    )


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One batch, padded on the right: `input_ids`, `attention_mask` (rows, longest), int64, and `labels`.

    Labels are (rows, longest) int64 for a causal LM, (rows,) int64 for classes, (rows,) float32 for a regression.
    `token_type_ids`, (rows, longest) int64, is there where an example has segments.
    """
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    labels = [example.labels for example in examples]
    batch = {
        "input_ids": padded([example.input_ids for example in examples], pad_token_id),
        "attention_mask": padded([[1] * len(example.input_ids) for example in examples], 0),
        "labels": padded(labels, IGNORE) if isinstance(labels[0], list) else torch.tensor(labels),  # type: ignore[arg-type]
    }
    if any(example.segments for example in examples):
        rows = [example.segments or [0] * len(example.input_ids) for example in examples]
        batch["token_type_ids"] = padded(rows, 0)
    return batch


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token: the tokenizer's own, else its end-of-text token, else 0. Masks hide it wherever it stands."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    shorter = min(len(left), len(right))
    return next((place for place in range(shorter) if left[place] != right[place]), shorter)


def _refuse_nothing_to_learn(examples: list[Example], max_length: int) -> None:
    # The first token is never predicted, so a label on it alone teaches nothing.
    places = [example.where for example in examples if all(label == IGNORE for label in example.labels[1:])]  # type: ignore[index]
    if places:
        more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
        raise LinchainError(
            f"no token to learn is left within data.max_length {max_length} (the prompt fills it) in "
            f"{len(places)} of {len(examples)} examples: {', '.join(places[:SHOWN_PLACES])}{more}. "
            "Raise data.max_length or remove these records"
        )
