"""`linchain methods`: the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from linchain import methods as catalogue

if TYPE_CHECKING:
    from rich.table import Table


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its options and defaults.")] = None,
) -> None:
    """List the fine-tuning methods, or show one with its options."""
    from rich.console import Console

    console = Console()
    if name is None:
        console.print(_list())
        return
    method = catalogue.get(name)

    from linchain.quiet import quiet_libraries

    quiet_libraries()
    about = {"trained": method.trains, "optimizer": method.groups, "when": method.use, "result": method.leaves}
    lines = [f"{method.title}: {method.equation}", method.reference, *(f"{key}: {text}" for key, text in about.items())]
    console.print("\n".join(lines) + "\n", markup=False, highlight=False)
    if method.options or method.fixed:
        console.print(_options(method))


def _list() -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("adapted layer", no_wrap=True)
    table.add_column("arXiv", no_wrap=True)
    for method in catalogue.catalogue():
        table.add_row(method.name, method.equation, method.arxiv or "")
    return table


def _options(method: catalogue.Method) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("option", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning")
    for name, value in method.fixed.items():
        table.add_row(name, repr(value), "Fixed: it makes the method what it is.")
    for option in method.described_options():
        default = "" if option.default is None else repr(option.default)
        table.add_row(option.name, Text(default), Text(option.help))
    return table
