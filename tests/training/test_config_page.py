from pathlib import Path

from linchain.training.config_page import configuration_page


def test_the_page_in_docs_is_that_of_the_schema():
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configuration_page()


def test_it_names_keys_and_defaults():
    assert "| `training.learning_rate` | `0.0003` | Peak learning rate of AdamW. |" in configuration_page()
