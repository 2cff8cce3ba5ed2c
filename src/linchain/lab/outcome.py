"""What a comparison found, in the terminal: the report's first screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from linchain.errors import printable
from linchain.lab.report.content import Sheet
from linchain.lab.report.study import Study
from linchain.lab.report.tables import overview
from linchain.lab.trials import Comparison

SHOWN = 4  # contestant, score, in words, difference


def outcome(comparison: Comparison) -> RenderableType:
    """The verdict in sentences, and the overview of each budget as a table."""
    study = Study(comparison.folder.absolute().name, comparison)
    return Group(*_parts(study))


def _parts(study: Study) -> Iterator[RenderableType]:
    for budget in study.budgets:
        if sheet := overview(study, budget):
            yield _table(sheet)
            yield Padding(Text(sheet.caption, style="dim"), (0, 0, 1, 0))
    first, *others = study.analysis.verdict
    yield Text(first, style="bold")
    for sentence in (*others, *study.analysis.measured):
        yield Text(sentence)


def _table(sheet: Sheet) -> Table:
    """Without the last columns, the costs: 80 characters hold no more, and a figure that is cut is a wrong one."""
    table = Table()
    for column in sheet.columns[:SHOWN]:
        table.add_column(
            escape(column.title), justify="right" if column.numeric else "left", no_wrap=column.numeric, overflow="fold"
        )
    for row in sheet.rows:
        table.add_row(
            *(Text(printable(f"{cell.text}\n{cell.detail}" if cell.detail else cell.text)) for cell in row[:SHOWN])
        )
    return table
