"""`linchain report`: one report of one or several comparisons, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    comparisons: Annotated[list[Path], typer.Argument(help="Folders of `linchain compare`.", metavar="COMPARISON...")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, report.md and tables/. Default: the comparison's own folder."),
    ] = None,
) -> None:
    """Write the report of what COMPARISON holds by now; of several, one report with all of them."""
    from rich.console import Console

    from linchain.errors import LinchainError
    from linchain.files import check_writable
    from linchain.quiet import quiet_libraries

    if output is None and len(comparisons) > 1:
        raise LinchainError("--output: required for a report of several comparisons")
    quiet_libraries()

    from linchain.lab.report import check_installed

    check_installed()

    from linchain.lab.outcome import outcome
    from linchain.lab.report import write_report
    from linchain.lab.trials import Comparison

    loaded = [Comparison.load(one) for one in comparisons]
    folder = output or loaded[0].folder
    check_writable(folder)
    console = Console()
    for one in loaded:
        console.print(outcome(one))
    written = write_report(loaded, folder, console)
    console.print(f"report: {written}", markup=False, highlight=False, soft_wrap=True)
