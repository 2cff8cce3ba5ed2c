"""Reads an answer out of generated text and compares it with the gold answer.

The rules are those of the papers' evaluation code (LLM-Adapters): a number is the last number in the text, commas
removed, equal within 1e-3; a choice such as `answer3` or `true` is the first one in the text; a letter A-E is the first
that stands alone (their code also takes a letter inside a word, which turns "An" into the answer A). Everything else is
compared as text, without regard to case, surrounding punctuation and runs of white space.
"""

from __future__ import annotations

import re

TOLERANCE = 1e-3

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CHOICE = re.compile(r"answer[1-5]|solution[12]|ending[1-4]|option[12]|true|false", re.IGNORECASE)
_LETTER = re.compile(r"\b[A-E]\b")


def extract(text: str, gold: str) -> str | None:
    """The answer in `text`, read by the rule that fits `gold`; None where there is none.

    >>> extract("3 + 1,200 = 1,203.", "1203")
    '1203'
    >>> extract("the correct answer is answer2, not answer1", "answer3")
    'answer2'
    """
    gold = gold.strip()
    if _as_number(gold) is not None:
        numbers = _NUMBER.findall(text.replace(",", ""))
        return numbers[-1] if numbers else None
    for rule in (_CHOICE, _LETTER):
        if rule.fullmatch(gold):
            found = rule.search(text)
            return found.group() if found else None
    return _normalised(text)


def matches(text: str, gold: str) -> bool:
    """Whether the answer in `text` equals `gold`."""
    found = extract(text, gold)
    if found is None:
        return False
    number = _as_number(gold)
    if number is not None:
        return abs(float(found) - number) <= TOLERANCE
    return _normalised(found) == _normalised(gold)


def _as_number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split()).strip(".,;:!?\"'` ")
