"""Reads an answer out of generated text and compares it with the gold answer.

The gold answer decides the rule. Those for numbers, choices and letters are in the extraction "paper" what the papers' code
(LLM-Adapters) does, and in "standard" our own:

- a number is the last number in the text, commas removed, equal within 1e-3, in both;
- a choice such as `answer3` or `true` is the first of its kind in the text ("paper": in lower case only);
- a letter A-E is the one behind the last "answer is", else the last in brackets, else the last that stands alone ("paper":
  the first at all, so that "An" gives the answer A);
- an expression, the answer of MATH, is what stands in the last box, or behind the last "answer is";
- everything else is compared as text, without regard to case, surrounding punctuation and runs of white space.

With "math_verify" numbers and expressions are compared by their value.
"""

from __future__ import annotations

import re
from typing import Literal

from linchain.tasks import expressions

TOLERANCE = 1e-3

Kind = Literal["choice", "number", "letter", "expression"]
Extraction = Literal["standard", "paper", "math_verify"]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_CHOICES = ("answer[1-5]", "solution[12]", "ending[1-4]", "option[12]", "true|false")
_LETTER = re.compile("[A-E]")
# What says that a letter is the answer, the surest sign first. A and its like also stand for people, pipes and the article.
_LETTER_SIGNS = tuple(
    re.compile(sign)
    for sign in (
        r"(?i:\banswer(?:\s+is|\s*:)(?:[\s:*${(]|\\boxed|\\text|option|choice)*)([A-E])\b(?!['’]\w)",
        r"\(([A-E])\)",
        r"\b([A-E])\b(?!['’]\w)",
    )
)


def extract(text: str, gold: str, kind: Kind | None = None, extraction: Extraction = "standard") -> str | None:
    """The answer in `text`, read by the rule that fits `gold`; None where there is none.

    `kind` is needed for expressions alone: the others are told by `gold`.

    >>> extract("3 + 1,200 = 1,203.", "1203")
    '1203'
    >>> extract("the correct answer is answer2, not answer1", "answer3")
    'answer2'
    """
    gold = gold.strip()
    number = _as_number(gold) is not None
    if extraction == "math_verify" and (number or kind == "expression"):
        return expressions.find_by_value(text)
    if kind == "expression":
        return expressions.find(text)
    if number:
        numbers = _NUMBER.findall(text.replace(",", ""))
        return numbers[-1] if numbers else None
    if _LETTER.fullmatch(gold) and extraction != "paper":
        return _stated_letter(text)
    rule = _first_of(gold, extraction)
    if rule is None:
        return _normalised(text)
    found = rule.search(text)
    return found.group() if found else None


def matches(text: str, gold: str, kind: Kind | None = None, extraction: Extraction = "standard") -> bool:
    """Whether the answer in `text` equals `gold`."""
    number = _as_number(gold)
    if extraction == "math_verify" and (number is not None or kind == "expression"):
        return expressions.equal(text, gold)
    found = extract(text, gold, kind, extraction)
    if found is None:
        return False
    if kind == "expression":
        return expressions.same(found, gold)
    if number is not None:
        return abs(float(found) - number) <= TOLERANCE
    return _normalised(found) == _normalised(gold)


def _stated_letter(text: str) -> str | None:
    return next((found[-1] for sign in _LETTER_SIGNS if (found := sign.findall(text))), None)


def _first_of(gold: str, extraction: Extraction) -> re.Pattern[str] | None:
    """What finds an answer of the kind of `gold`, a letter or a choice word; None where it is neither."""
    if _LETTER.fullmatch(gold):
        return _LETTER
    for words in _CHOICES:
        if re.fullmatch(words, gold, re.IGNORECASE):
            return re.compile(words, 0 if extraction == "paper" else re.IGNORECASE)
    return None


def _as_number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split()).strip(".,;:!?\"'` ")
