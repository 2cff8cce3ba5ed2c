"""The report of one or several comparisons: one HTML file that needs nothing else, Markdown, and CSV.

`study` is what there is to report, `series` what figures are drawn from; `tables`, `course_tables`, `papers`, `figures`,
`pareto`, `spectra`, `examples` and `settings` make the parts (`content`), `build` puts them together and writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from linchain.errors import LinchainError

if TYPE_CHECKING:
    from rich.console import Console

    from linchain.lab.trials import Comparison

NEEDED = ("matplotlib", "jinja2", "scipy")


def check_installed() -> None:
    """LinchainError where a library is missing that a report is made with: better before hours of training than after."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LinchainError(f"a report needs {', '.join(missing)}: pip install 'linchain[report]'")


def write_report(comparisons: Sequence[Comparison], out: Path, console: Console | None = None) -> Path:
    """Writes report.html, report.md and tables/*.csv into the folder `out`, and returns the path of the HTML file.

    Equal comparisons give equal files. One that is not finished is reported as far as it is. Raises LinchainError where a
    library is missing.
    """
    check_installed()
    from rich.console import Console

    from linchain.lab.report.build import build

    with (console or Console(quiet=True)).status("drawing the report"):
        return build(comparisons, out)
