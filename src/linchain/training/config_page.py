"""The page of all configuration keys, from the schema itself: `python -m linchain.training.config_page`."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from linchain.training.config import RunConfig

HEAD = """# Configuration

Every key of a run's YAML, with its default. Any of them can be overridden on the command line: `training.learning_rate=1e-3`.
Written by `python -m linchain.training.config_page > docs/configuration.md`.

"""


def configuration_page() -> str:
    """The page in Markdown: one table a section."""
    plain = {name: field for name, field in RunConfig.model_fields.items() if not _is_section(field)}
    parts = [HEAD + table("the top level", plain)]
    for name, field in RunConfig.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            parts.append(_section(name, field.annotation))
    return "\n".join(parts)


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
