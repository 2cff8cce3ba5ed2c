"""Word problems from templates of our own, the same ones for the same seed on every machine and Python version.

What a test problem is made of never occurs in a training problem of any kind:

- its wording (a choice of opening, event and question sentences; the single sentences occur in both splits),
- its names,
- its number facts: `12 + 7 = 19`, `7 + 12 = 19`, `19 - 7 = 12` and `19 - 12 = 7` are one fact and lie on one side, and
  every step of a longer solution counts.

`_split_of` decides all three by a hash of the thing itself, so that no list has to be kept in step with another.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from linchain.errors import LinchainError, unknown_name

SPLITS = ("train", "test")
SMALLEST, LARGEST = 2, 99  # of every number in a problem and its solution; 1 would need the singular
LARGEST_CHANGE = 9  # of every number that is added or taken: what so small a model can learn to do without fail

# fmt: off
_NAMES = (
    "Ada", "Alma", "Amir", "Anna", "Arlo", "Asha", "Ben", "Bela", "Bruno", "Cara", "Carl", "Chen", "Clara", "Cole",
    "Dana", "David", "Dina", "Dora", "Ella", "Elias", "Emil", "Emma", "Eric", "Esra", "Eva", "Fay", "Felix", "Finn",
    "Flora", "Fred", "Gina", "Greta", "Hana", "Hans", "Hugo", "Ida", "Ines", "Iris", "Ivan", "Jack", "Jada", "Jana",
    "Joel", "Jonas", "Jose", "Judy", "Julia", "June", "Kai", "Kara", "Karl", "Kim", "Kira", "Lara", "Lea", "Lena",
    "Leo", "Lila", "Lina", "Lisa", "Luca", "Lucy", "Luis", "Luna", "Malik", "Mara", "Marco", "Maria", "Mark",
    "Marta", "Maya", "Max", "Mia", "Mila", "Milo", "Mina", "Nadia", "Naomi", "Nico", "Nina", "Noah", "Nora", "Olga",
    "Omar", "Oscar", "Otto", "Paul", "Petra", "Pia", "Rafa", "Rahel", "Remy", "Rita", "Robin", "Rosa", "Ruben",
    "Ruth", "Sam", "Samir", "Sara", "Selma", "Simon", "Sofia", "Stella", "Tara", "Theo", "Tim", "Tina", "Tom",
    "Uma", "Vera", "Victor", "Viola", "Wanda", "Will", "Yara", "Yuki", "Zara", "Zoe",
)
_ITEMS = (
    "apples", "balls", "beads", "books", "boxes", "buttons", "cards", "coins", "cups", "eggs", "keys", "marbles",
    "nuts", "pens", "pears", "plums", "shells", "stamps",
)
# fmt: on

_OPENINGS = (
    "{name} has {a} {item}.",
    "At first {name} has {a} {item}.",
    "{name} owns {a} {item}.",
    "In the morning {name} has {a} {item}.",
    "There are {a} {item} on the table of {name}.",
    "{name} starts with {a} {item}.",
    "The bag of {name} holds {a} {item}.",
)
_GAINS = (
    "{name} finds {x} more.",
    "{name} buys {x} more {item}.",
    "A friend gives {name} {x} {item}.",
    "{name} gets {x} new {item}.",
    "{name} wins {x} {item} in a game.",
    "Then {x} {item} are added.",
    "{name} picks up {x} more {item}.",
)
_LOSSES = (
    "{name} loses {x} of them.",
    "{name} sells {x} {item}.",
    "{name} gives {x} {item} to a friend.",
    "{name} gives away {x} {item}.",
    "A friend takes {x} of the {item}.",
    "Then {x} {item} are lost.",
    "{name} throws away {x} of them.",
)
_QUESTIONS = (
    "How many {item} does {name} have now?",
    "How many {item} are there now?",
    "How many {item} are left in the end?",
    "What is the number of {item} now?",
    "Find the number of {item} in the end.",
)
_PAIRS = (
    "{name} has {a} {item}. {other} has {x}.",
    "{name} has {a} {item} and {other} has {x} {item}.",
    "There are {a} {item} on the table of {name} and {x} on the table of {other}.",
    "The bag of {name} holds {a} {item}. The bag of {other} holds {x} {item}.",
    "{name} owns {a} {item} and {other} owns {x}.",
    "{name} buys {a} {item} and {other} buys {x}.",
    "{name} finds {a} {item}. {other} finds {x} {item}.",
)
_COMPARISONS = (
    "How many more {item} does {name} have than {other}?",
    "How many fewer {item} does {other} have than {name}?",
    "What is the difference?",
    "How many {item} is {other} behind {name}?",
    "Find the difference between {name} and {other}.",
)
_TOTALS = (
    "How many {item} do they have together?",
    "How many {item} do {name} and {other} have together?",
    "What is the sum?",
    "How many {item} are there in all?",
    "Find the number of {item} in all.",
)


@dataclass(frozen=True)
class _Form:
    """Wordings that are solved in the same way: `signs` holds one `+` or `-` for each step."""

    signs: str
    wordings: tuple[str, ...]


def _form(signs: str, *sentences: tuple[str, ...]) -> _Form:
    """The form whose wordings are all choices of one sentence from each of `sentences`."""
    return _Form(signs, tuple(" ".join(choice) for choice in itertools.product(*sentences)))


def _two_events(signs: str) -> _Form:
    """The form in which two events follow each other; the second one's number is `y`."""
    first, second = ({"+": _GAINS, "-": _LOSSES}[sign] for sign in signs)
    return _form(signs, _OPENINGS, first, tuple(event.replace("{x}", "{y}") for event in second), _QUESTIONS)


_FORMS = {
    "add": (_form("+", _OPENINGS, _GAINS, _QUESTIONS),),
    "subtract": (_form("-", _OPENINGS, _LOSSES, _QUESTIONS),),
    "compare": (_form("-", _PAIRS, _COMPARISONS),),
    "total": (_form("+", _PAIRS, _TOTALS),),
    "two_step": (_two_events("+-"), _two_events("-+")),
}
EASY_KINDS = ("add", "subtract", "compare", "total")  # what the starter model is pre-trained on


def kinds() -> list[str]:
    """The kinds of problem: the easy ones first, then those that the starter model never saw."""
    return list(_FORMS)


def problems(kind: str, split: str, n: int, seed: int) -> list[dict[str, str]]:
    """`n` different problems; fewer with the same seed are the first ones of them.

    Args:
        kind: one of `kinds()`.
        split: `"train"` or `"test"`.
        n: at least 1; problems differ in their wording or their numbers, which bounds how many there are.
        seed: of the choice; the same one gives unrelated choices for another kind or split.

    Returns:
        Records with the keys `id`, `instruction` (the problem), `input` (empty), `output` (the steps and the answer, as
        `12 + 7 = 19. 19 - 5 = 14. #### 14`) and `answer` (`14`).

    Raises:
        LinchainError: an unknown kind or split, or an `n` that is not within 1 and the number of problems there are.
    """
    if kind not in _FORMS:
        raise unknown_name("kind of problem", kind, _FORMS)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    groups = [(form.signs, _wordings(form, split), _operands(form.signs, split)) for form in _FORMS[kind]]
    sizes = [len(wordings) * len(operands) for _, wordings, operands in groups]
    if not 1 <= n <= sum(sizes):
        raise LinchainError(f"n is {n}, but {kind!r} has 1 to {sum(sizes)} {split} problems")
    rng = random.Random(f"{kind}/{split}/{seed}")
    records = []
    for number, place in enumerate(_sample(rng, n, sum(sizes))):
        group = 0
        while place >= sizes[group]:
            place -= sizes[group]
            group += 1
        signs, wordings, operands = groups[group]
        wording, values = wordings[place % len(wordings)], operands[place // len(wordings)]
        steps, answer = _solve(signs, values)
        names = _names(split)
        name, other = (names[i] for i in _sample(rng, 2, len(names)))
        numbers = dict(zip("axy", values, strict=False))
        records.append(
            {
                "id": f"{kind}-{split}-{seed}-{number}",
                "instruction": wording.format(name=name, other=other, item=_ITEMS[_below(rng, len(_ITEMS))], **numbers),
                "input": "",
                "output": f"{' '.join(steps)} #### {answer}",
                "answer": str(answer),
            }
        )
    return records


def equations(n: int, seed: int) -> list[str]:
    """`n` number facts of the training split in random order and form, as `12 + 7 = 19.`; they may repeat."""
    rng = random.Random(f"equations/{seed}")
    lists = [(sign, _operands(sign, "train")) for sign in "+-"]
    lines = []
    for _ in range(n):
        sign, operands = lists[_below(rng, 2)]
        lines.append(_solve(sign, operands[_below(rng, len(operands))])[0][0])
    return lines


def _solve(signs: str, values: tuple[int, ...]) -> tuple[list[str], int]:
    """The steps in words, and what they come to."""
    steps, total = [], values[0]
    for sign, value in zip(signs, values[1:], strict=True):
        result = total + value if sign == "+" else total - value
        steps.append(f"{total} {sign} {value} = {result}.")
        total = result
    return steps, total


@cache
def _operands(signs: str, split: str) -> tuple[tuple[int, ...], ...]:
    """All numbers (the first, then one for each step) whose steps stay in range and are facts of `split`."""
    # the numbers so far, and what they come to
    partial: list[tuple[tuple[int, ...], int]] = [((first,), first) for first in range(SMALLEST, LARGEST + 1)]
    for sign in signs:
        partial = [
            ((*values, value), result)
            for values, total in partial
            for value, result in _steps(sign, total)
            if _split_of("fact", *sorted((value, total if sign == "+" else result))) == split
        ]
    return tuple(values for values, _ in partial)


def _steps(sign: str, total: int) -> list[tuple[int, int]]:
    """What can be added to or taken from `total`, each with its result."""
    if sign == "+":
        return [(value, total + value) for value in range(SMALLEST, min(LARGEST_CHANGE, LARGEST - total) + 1)]
    return [(value, total - value) for value in range(SMALLEST, min(LARGEST_CHANGE, total - SMALLEST) + 1)]


def _wordings(form: _Form, split: str) -> list[str]:
    return [wording for wording in form.wordings if _split_of("wording", wording) == split]


def _names(split: str) -> list[str]:
    return [name for name in _NAMES if _split_of("name", name) == split]


@cache
def _split_of(*thing: str | int) -> str:
    """The side a wording, a name or a fact lies on: one in five is for the test."""
    digest = hashlib.sha256("/".join(map(str, thing)).encode()).digest()
    return "test" if digest[0] % 5 == 0 else "train"


def _below(rng: random.Random, bound: int) -> int:
    """A whole number from 0 to bound - 1, from `random()`, whose sequence alone is the same in every Python release."""
    return int(rng.random() * bound)


def _sample(rng: random.Random, n: int, size: int) -> Iterator[int]:
    """`n` different numbers below `size`: Fisher and Yates' shuffle of a list that is never written out."""
    moved: dict[int, int] = {}
    for i in range(n):
        j = i + _below(rng, size - i)
        yield moved.get(j, j)
        moved[j] = moved.get(i, i)
