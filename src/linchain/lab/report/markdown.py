"""A report as Markdown, and its tables as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from linchain.errors import printable
from linchain.lab.report.content import Block, Cell, Chapter, Examples, Picture, Report, Section, Sheet, Verbatim

_SIGNS = re.compile(r"([\\`*_\[\]<>|#~$&])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def to_markdown(report: Report) -> str:
    """The whole report; figures are given by what they show."""
    lines = [f"# {escape(report.title)}", ""]
    for chapter in report.chapters:
        lines += _chapter(chapter)
    return "\n".join(lines).rstrip() + "\n"


def to_csv(sheet: Sheet) -> str:
    """The unrounded figures of a table. Texts that a spreadsheet would compute begin with an apostrophe."""
    names = list(dict.fromkeys(name for record in sheet.records for name in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in record.items()} for record in sheet.records)
    return file.getvalue()


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value.replace("\r", "\n"))  # line ends are put in quotes by the writer
    return f"'{text}" if value.startswith(_FORMULA) else text


def escape(text: str) -> str:
    r"""Text that Markdown shows as it is, in one line.

    >>> print(escape("a|b <script> *c*"))
    a\|b \<script\> \*c\*
    """
    return _SIGNS.sub(r"\\\1", printable(" ".join(text.split())))


def fenced(text: str) -> str:
    """Text as a code block, whatever backticks it holds itself."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield from (f"## {escape(chapter.title)}", "", escape(chapter.about), "")
    for sentence in chapter.verdict:
        yield from (escape(sentence), "")
    for sheet in chapter.overview:
        yield from _sheet(sheet)
    for section in chapter.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield from (f"### {escape(section.title)}", "")
    for paragraph in section.lead:
        yield from (escape(paragraph), "")
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Sheet):
        yield from _sheet(block)
    elif isinstance(block, Picture):
        yield from (f"#### {escape(block.title)}", "", escape(block.caption), "")
        yield from (f"- {escape(panel.text)}" for panel in block.panels)
        yield ""
    elif isinstance(block, Examples):
        yield from _examples(block)
    elif isinstance(block, Verbatim):
        yield from (f"#### {escape(block.title)}", "", fenced(block.text), "")


def _sheet(sheet: Sheet) -> Iterator[str]:
    yield from (escape(sheet.caption), "")
    yield _row([escape(column.title) for column in sheet.columns])
    yield _row(["---:" if column.numeric else "---" for column in sheet.columns])
    yield from (_row([_cell(cell) for cell in row]) for row in sheet.rows)
    yield ""
    if sheet.notes:
        yield from (*(f"- {escape(note)}" for note in sheet.notes), "")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    return escape(f"{cell.text} ({cell.detail})" if cell.detail else cell.text)


def _examples(block: Examples) -> Iterator[str]:
    yield from (escape(block.caption), "")
    for example in block.examples:
        yield from (f"#### Example {escape(example.where)}", "")
        if example.prompt:
            yield from (fenced(example.prompt), "")
        yield from (f"Gold: {escape(example.gold)}", "")
        for answer in example.answers:
            yield f"- {escape(answer.contestant)}, {'right' if answer.right else 'wrong'}: {escape(answer.text)}" + (
                f" (read as {escape(answer.read)})" if answer.read else ""
            )
        yield ""
