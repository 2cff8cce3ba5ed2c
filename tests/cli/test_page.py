from pathlib import Path

from linchain.cli.page import commands_page


def test_the_page_in_docs_is_that_of_the_commands():
    page = Path(__file__).parents[2] / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == commands_page()


def test_it_names_arguments_options_and_defaults():
    page = commands_page()
    assert "linchain export [OPTIONS] ADAPTER OUT" in page
    assert "| `--to` `FORM` | required |" in page
    assert "| `--method` | `linchain` | A method of `linchain methods`. |" in page
