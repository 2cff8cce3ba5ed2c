"""The arithmetic of docs/clusters.md comes to what the page says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def test_each_program_prints_what_stands_below_it():
    found = re.findall(
        r"```python\n(.*?)```\n\nIt prints\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(found) == 2
    for program, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, str(PAGE), "exec"), {})
        assert printed.getvalue() == expected
