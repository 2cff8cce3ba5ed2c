import json
from pathlib import Path
from typing import get_args

from linchain.tasks.formats import formats, get_format
from linchain.tasks.instruction import instruction_prompt
from linchain.tasks.records import Record
from linchain.training.config import COLUMNS, DataConfig
from linchain.training.config_page import EXAMPLES, configuration_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_in_docs_is_that_of_the_schema():
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == configuration_page()


def test_it_names_keys_and_defaults():
    assert "| `training.learning_rate` | `0.0003` | Peak learning rate of AdamW. |" in configuration_page()


def test_its_examples_are_read_in_the_format_they_stand_for():
    for name, line in EXAMPLES.items():
        task = formats()[name].task
        assert get_format("auto", [Record(json.loads(line), "example")], task).name == name
    assert set(EXAMPLES) == set(formats())


def test_the_schema_and_the_command_name_every_format_and_its_columns():
    assert set(get_args(DataConfig.model_fields["format"].annotation)) == {"auto", *formats()}
    assert {column for format in formats().values() for column in format.required} <= set(COLUMNS)
    evaluate = (DOCS / "commands.md").read_text(encoding="utf-8").split("## evaluate")[1]
    assert [name for name in formats() if name not in evaluate] == []


def test_it_shows_the_prompt_that_is_trained_on():
    for prompt in (instruction_prompt("{instruction}"), instruction_prompt("{instruction}", "{input}")):
        assert prompt.rstrip() in configuration_page()
