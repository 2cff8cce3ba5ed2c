"""Text that comes from data stays text: in a terminal, in a spreadsheet, in Markdown, in a page."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from linchain.cli.app import main
from linchain.errors import printable
from linchain.lab.report.build import to_html
from linchain.lab.report.content import Answer, Cell, Chapter, Column, Example, Examples, Report, Section, Sheet
from linchain.lab.report.markdown import to_csv, to_markdown
from linchain.quiet import quiet_libraries

HOSTILE = "<script>alert(1)</script> a|b &lt; [red] $x$\n# title"


def sheet(label: str) -> Sheet:
    return Sheet(
        "s", label, (Column(label),), ((Cell(label, label),),), ({"contestant": label, "score": -1.5},), (label,)
    )


def report(text: str) -> Report:
    example = Example(text, "```\n" + text, text, (Answer(text, text, True, text),))
    sections = (Section("a", text, (text,), (Examples("e", text, (example,)), sheet(text))),)
    return Report(text, (Chapter("c", text, text, (text,), (sheet(text),), sections),))


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_text(label: str) -> None:
    (row,) = csv.DictReader(to_csv(sheet(label)).splitlines(keepends=True))
    assert row["contestant"].startswith("'")
    assert row["score"] == "-1.5"


def test_a_page_shows_markup_as_text() -> None:
    page = to_html(report(HOSTILE))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; a|b &amp;lt;" in page


def test_markdown_shows_its_signs_as_text() -> None:
    text = to_markdown(report(HOSTILE))
    outside = "".join(text.split("````")[::2])  # prompts stand in fences, where nothing is a sign
    assert "\\<script\\>alert(1)\\</script\\> a\\|b \\&lt; \\[red\\] \\$x\\$ \\# title" in outside
    assert "<script" not in outside.replace("\\<", "")
    assert not [line for line in outside.splitlines() if line.startswith("# title")]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b31m", "\x07", "\b\b", "\u202egnp.exe", "\ud800", "\x00"])
def test_a_terminal_obeys_no_text(text: str) -> None:
    shown = printable(f"a{text}b\tc\nd")
    assert shown.isascii()
    assert shown.startswith("a\\")
    assert shown.endswith("b\tc\nd")


def test_inspect_shows_an_adapter_s_text_as_it_is(tmp_path: Path, monkeypatch, capsys) -> None:
    names = {"peft_version": "[red]\x1b[2J", "revision": "[/]"}
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], **names}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"[bold]\x1b[2J.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    monkeypatch.setattr("sys.argv", ["linchain", "inspect", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]\\x1b[2J" in shown
    assert "[bold]\\x1b[2J.lora_A.weight" in shown


def test_a_warning_quotes_an_adapter_s_text_as_it_is(tmp_path: Path, monkeypatch, capsys) -> None:
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "\x1b[2J\nverified": 1, "k" * 999: 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"q_proj.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    monkeypatch.setattr("sys.argv", ["linchain", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert line.endswith(f"unknown keys ignored: \\x1b[2J\\nverified, {'k' * 200}")


def test_any_warning_is_shown_as_text(capsys) -> None:
    quiet_libraries()
    warnings.warn("gone\x1b[2J", stacklevel=1)
    assert capsys.readouterr().err == "warning: gone\\x1b[2J\n"


def test_an_error_names_a_path_without_obeying_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["linchain", "inspect", "no\x1b[2Jadapter"])
    with pytest.raises(SystemExit):
        main()
    assert "adapter no\\x1b[2Jadapter does not exist" in capsys.readouterr().err
