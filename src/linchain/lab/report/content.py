"""What a report consists of, before it is HTML, Markdown or CSV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from linchain.lab.report import words
from linchain.lab.report.svg import Panel

Tone = Literal["", "good", "bad", "quiet"]
Mark = Literal["line", "dashed", "dotted", "dot", "ring", "band", "cross"]


@dataclass(frozen=True)
class Cell:
    """One field of a table: its text, a smaller second line, and how the text is to be taken."""

    text: str
    detail: str = ""
    tone: Tone = ""


EMPTY = Cell(words.NONE, tone="quiet")


@dataclass(frozen=True)
class Column:
    """Heading of a column; numbers stand flush right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        name: unique in a report; the CSV's file name and the HTML id.
        caption: what the figures are, over how many examples and seeds, and what their intervals are of.
        columns: the first one names the rows.
        records: the CSV's rows, unrounded.
        folded: where it is shown only when it is asked for, the words to ask with.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    folded: str = ""


@dataclass(frozen=True)
class Key:
    """A line of a figure's legend: `role` is a colour of svg.py, `mark` how it is drawn."""

    label: str
    role: str
    mark: Mark = "line"


@dataclass(frozen=True)
class Picture:
    """A figure: panels that are read alike, with one legend and one caption. `wide` panels need room for names."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Answer:
    """What one contestant said to a prompt, and what was read out of it where that is not the same."""

    contestant: str
    text: str
    right: bool
    read: str = ""


@dataclass(frozen=True)
class Example:
    """A test example on which contestants disagree."""

    where: str
    prompt: str
    gold: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Examples:
    name: str
    caption: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Verbatim:
    """Text that is shown as it is: a plan, a command. `folded`: shown when it is asked for."""

    name: str
    title: str
    text: str
    folded: bool = False


Block = Sheet | Picture | Examples | Verbatim


@dataclass(frozen=True)
class Section:
    """`lead`: paragraphs before the blocks."""

    name: str
    title: str
    lead: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One comparison. `about`: model, data, metric, seeds in a line; `verdict`: the answer, its first sentence first."""

    name: str
    title: str
    about: str
    verdict: tuple[str, ...]
    overview: tuple[Sheet, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    title: str
    chapters: tuple[Chapter, ...]
