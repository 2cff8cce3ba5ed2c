"""Test questions that the training (or validation) data already hold: the same question, or nearly the same words.

A question is what is asked, without its answer: instruction and input, the user's turns, both sentences of a pair, or a
whole text. Two questions are the same where they differ only in upper and lower case, white space, punctuation and how
numbers are written (1,200 and 1200, 2.50 and 2.5). What carries meaning in a formula stays: a question about 5 - 3 is
not one about 5 + 3, nor 1.5 the number 15.

Near copies are counted apart, by the rule of PaLM's check (Chowdhery et al. 2022, section 8): at least 70 % of a question's
runs of 8 words occur in the training data. A prompt's own wording, which all questions share, is less than that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import shorten

import numpy as np

from linchain.tasks.messages import is_message
from linchain.tasks.records import Record
from linchain.tasks.sharegpt import as_messages

RUN_WORDS = 8
NEAR_SHARE = 0.7
SHOWN_EXAMPLES = 3
SHOWN_LETTERS = 200

_DROPPED = str.maketrans("", "", " \t\n\r\f\v.,;:?!\"'`’‘“”–—…")
_HYPHEN = re.compile(r"-(?=\s*(?:-|[^\W\d_]{2}))")  # between or before words; the others may be minus signs
_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?")
_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word of a run loses its weight
_CHUNK = 20_000  # training records whose runs are held in memory at a time


@dataclass(frozen=True)
class Overlap:
    """How many of the `n` questions of the test source `test` the training data hold.

    `same` counts those that are training questions, `near` the others whose words are. `examples` are some of the first
    kind: the place of the test record, that of the training record, and the question, shortened.
    """

    test: str
    n: int
    same: int
    near: int
    examples: tuple[tuple[str, str, str], ...]


def find_overlaps(train: Sequence[Record], tests: Mapping[str, Sequence[Record]]) -> tuple[Overlap, ...]:
    """One Overlap for each named source of test records, in time that grows with the number of training records."""
    asked = {name: [normalised(question(record)) for record in records] for name, records in tests.items()}
    wanted = set(chain.from_iterable(asked.values())) - {""}
    places: dict[str, str] = {}
    for record in train:
        key = normalised(question(record))
        if key in wanted:
            places.setdefault(key, record.where)
    alike = iter(_near(train, list(chain.from_iterable(tests.values()))))
    found = []
    for name, records in tests.items():
        same = [(record, places[key]) for record, key in zip(records, asked[name], strict=True) if key in places]
        near = sum(next(alike) and key not in places for key in asked[name])
        examples = tuple(
            (record.where, place, shorten(question(record), SHOWN_LETTERS, placeholder=" …"))
            for record, place in same[:SHOWN_EXAMPLES]
        )
        found.append(Overlap(name, len(records), len(same), near, examples))
    return tuple(found)


def question(record: Record) -> str:
    """What the record asks, without its answer; empty where no column of ours holds a question."""
    fields = record.fields
    # columns of a format that the data are not read in may hold anything
    turns = fields["messages"] if "messages" in fields else as_messages(fields.get("conversations"))
    if isinstance(turns, list) and all(is_message(turn) for turn in turns):
        return "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
    for columns in (("sentence1", "sentence2"), ("instruction", "input"), ("prompt",), ("text",)):
        if isinstance(fields.get(columns[0]), str):
            return "\n".join(text for column in columns if (text := fields.get(column)) and isinstance(text, str))
    return ""


def normalised(text: str) -> str:
    """`text` without what does not make it another question.

    >>> normalised("Tom did n't spend $ 1,200.50 .") == normalised("tom didn't spend $1200.5")
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    # numbers are taken out of the way first: their points are no punctuation, and 1 2 is not 12
    return _HYPHEN.sub("", _NUMBER.sub(_plain_number, text.casefold())).translate(_DROPPED)


def _plain_number(match: re.Match[str]) -> str:
    whole, _, decimals = match.group().replace(",", "").partition(".")
    return f"\x01{whole.lstrip('0')}\x02{decimals.rstrip('0')}\x01"


def _near(train: Sequence[Record], tests: Sequence[Record]) -> list[bool]:
    """For each test record whether the training data hold NEAR_SHARE of its runs of words."""
    runs, owners = _runs(tests)
    known, index = np.unique(runs, return_inverse=True)
    held = np.zeros(len(known), dtype=bool)
    for first in range(0, len(train) if len(known) else 0, _CHUNK):
        found = np.sort(_runs(train[first : first + _CHUNK])[0])  # in order, they are looked up several times as fast
        place = np.searchsorted(known, found).clip(max=len(known) - 1)
        held[place[known[place] == found]] = True
    total = np.bincount(owners, minlength=len(tests))
    shared = np.bincount(owners, weights=held[index], minlength=len(tests))
    return ((total > 0) & (shared >= NEAR_SHARE * total)).tolist()


def _runs(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every RUN_WORDS words in a row, uint64, and the index of the record of each, int64."""
    words = [_WORD.findall(question(record).casefold()) for record in records]
    lengths = [len(row) for row in words]
    codes = np.fromiter(map(hash, chain.from_iterable(words)), dtype=np.int64, count=sum(lengths)).view(np.uint64)
    owners = np.repeat(np.arange(len(records)), lengths)
    count = max(len(codes) - RUN_WORDS + 1, 0)
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(RUN_WORDS):
        runs = runs * _MULTIPLIER + codes[offset : offset + count]
    inside = owners[:count] == owners[len(owners) - count :]
    return runs[inside], owners[:count][inside]
