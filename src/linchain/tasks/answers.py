"""Reads an answer out of generated text and compares it with the gold answer.

The gold answer decides the rule. The rules are those of the papers' code (LLM-Adapters), in the extraction "paper" word for
word, in "standard" without what makes a right answer wrong there:

- a number is the last number in the text, commas removed, equal within 1e-3;
- a choice such as `answer3` or `true` is the first of its kind in the text ("paper": in lower case only);
- a letter A-E is the first that stands alone ("paper": the first at all, so that "An" gives the answer A);
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
_LETTER_ALONE = re.compile(r"\b[A-E]\b")


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
    rule = _choice_rule(gold, extraction)
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


def _choice_rule(gold: str, extraction: Extraction) -> re.Pattern[str] | None:
    """What finds an answer of the kind of `gold`, a choice word or a letter; None where it is neither."""
    if _LETTER.fullmatch(gold):
        return _LETTER if extraction == "paper" else _LETTER_ALONE
    for words in _CHOICES:
        if re.fullmatch(words, gold, re.IGNORECASE):
            return re.compile(words, 0 if extraction == "paper" else re.IGNORECASE)
    return None


def _as_number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split()).strip(".,;:!?\"'` ")
