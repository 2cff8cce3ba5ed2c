"""The page of all configuration keys, from the schema itself: `python -m linchain.training.config_page`."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from linchain.tasks.formats import formats
from linchain.tasks.instruction import instruction_prompt
from linchain.training.config import RunConfig

HEAD = """# Configuration

Every key of a run's YAML, with its default. Any of them can be overridden on the command line: `training.learning_rate=1e-3`.
Written by `python -m linchain.training.config_page > docs/configuration.md`.

"""

# one line of a file in each format
EXAMPLES = {
    "instruction": '{"instruction": "Add the numbers.", "input": "2 and 3", "output": "2 + 3 = 5.", "answer": "5"}',
    "prompt_completion": '{"prompt": "2 + 3 =", "completion": " 5"}',
    "messages": '{"messages": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]}',
    "sharegpt": '{"conversations": [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5"}]}',
    "text": '{"text": "Once upon a time there was a little girl."}',
    "sentence_pair": '{"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1}',
}

FORMATS = """### Data formats

A file is JSONL (one record a line), JSON (a list of records), CSV or Parquet. `data.format: auto` takes the format
whose columns the first record has; other columns are ignored.

| format | columns | what is learned |
|---|---|---|
| `instruction` | `instruction`, `output`; optional `input`, `answer` | \
The output, behind the prompt below. With an `answer`, generated answers are scored by it. |
| `prompt_completion` | `prompt`, `completion`; optional `answer` | \
The completion, behind the prompt as it is: no template. `answer` as above. |
| `messages` | `messages`: a list of `role` and `content` | \
The assistant's turns, in the tokenizer's chat template (or `model.chat_template`). |
| `sharegpt` | `conversations`: a list of `from` (`human`, `gpt`, …) and `value` | As `messages`. |
| `text` | `text` | All of it. |
| `sentence_pair` | `sentence1`, `label`; optional `sentence2` | \
The label: whole numbers or names are classes, other numbers a regression. Needs `task: sequence_classification`. |

```json
{examples}
```

Columns of other names are mapped: behind each needed one stands what the data call it. For `question` and `answer`, in the file
`columns: {{instruction: question, output: answer}}` below `data`, on the command line
`'data.columns={{instruction: question, output: answer}}'`, with the quotes. `linchain evaluate RUN` maps as its run did; for
other data it takes `--columns instruction=question --columns output=answer`. `answer` is then also what generated answers are
compared with; where it holds a text that is to be learned but not matched, set `evaluation.metric: loss`. `prompt` and
`completion` need no map, but `{{instruction: prompt, output: completion}}` with `format: instruction` puts them into the
prompt below.

### The prompt of instructions

What the model is given in training and evaluation; give it the same when you use it. The output follows the last line, then the
end-of-text token.

```text
{without}
```

With an `input`:

```text
{with_input}
```

`linchain.tasks.instruction.instruction_prompt(instruction, input)` writes it.
`linchain train CONFIG --preview` shows it with the first record.
"""


def configuration_page() -> str:
    """The page in Markdown: one table a section."""
    plain = {name: field for name, field in RunConfig.model_fields.items() if not _is_section(field)}
    parts = [HEAD + table("the top level", plain)]
    for name, field in RunConfig.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            parts.append(_section(name, field.annotation))
            if name == "data":
                parts.append(formats_part())
    return "\n".join(parts)


def formats_part() -> str:
    """What a file of data may hold, and the prompt that instructions are put into."""
    with_input = instruction_prompt("{instruction}", "{input}")
    return FORMATS.format(
        examples="\n".join(EXAMPLES[name] for name in formats()),
        without=instruction_prompt("{instruction}").rstrip("\n"),
        with_input=with_input.rstrip("\n"),
    )


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _section(name: str, section: type[BaseModel]) -> str:
    note = " ".join((section.__doc__ or "").split())
    return table(f"`{name}`", section.model_fields, f"{name}.", f"{note}\n\n" if note else "")


def table(title: str, fields: dict[str, FieldInfo], prefix: str = "", note: str = "") -> str:
    """A section of the page: its keys with defaults and descriptions. `note` comes before the table."""
    rows = [f"| `{prefix}{name}` | {_default(field)} | {field.description} |" for name, field in fields.items()]
    return "\n".join(
        [f"## {title[0].upper()}{title[1:]}", "", f"{note}| key | default | |", "|---|---|---|", *rows, ""]
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, {}, ()) or isinstance(field.default, BaseModel):
        return ""
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(configuration_page(), end="")
