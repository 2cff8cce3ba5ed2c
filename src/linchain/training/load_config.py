"""Reads a configuration file and dotted overrides, and gathers all that is wrong with them into one error."""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from linchain.errors import LinchainError, first_line, nearest
from linchain.training.config import RunConfig

Schema = typing.TypeVar("Schema", bound=BaseModel)

# Sections that may be written as their name alone.
NAMED_SECTIONS = ("model", "method")
LARGEST = 100_000  # values in a file; a long text counts as one for every 100 letters
LONGEST_INTEGER = 1000  # letters, of any notation: Python prints, and reads as decimals, no more than 4,300 digits


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in the YAML file `path` with `key.key=value` overrides applied in their order.

    Precedence: override, then file, then default. `method=lora` changes the method and keeps the options that both
    methods have, so that they are compared alike; an override of any other whole section replaces it.

    Raises LinchainError: one message that lists every mistake, each with its key, its value and what is accepted.
    """
    values, mistakes = read_values(path, overrides)
    if {"methods", "learning_rates"} <= values.keys():
        raise LinchainError(f"{path} is the plan of a comparison: linchain compare {path}")
    return build_config(values, str(path), mistakes)


def read_values(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """What the YAML file `path` holds with the overrides applied, and what is wrong with those; nothing else is checked.

    `output`, where it is not given, is runs/<name of the file>. Raises LinchainError for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LinchainError(f"configuration file {path} cannot be read: {reason}") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise LinchainError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    mistakes = [mistake for override in overrides if (mistake := _apply(values, override))]
    values.setdefault("output", f"runs/{path.stem}")
    return values, mistakes


def build_config(values: dict[str, Any], origin: str = "configuration", mistakes: Iterable[str] = ()) -> RunConfig:
    """The configuration that `values` hold. `mistakes` found earlier are reported together with those found here."""
    return validated(RunConfig, values, origin, [*mistakes, *method_mistakes(values.get("method", "linchain"))])


def validated(schema: type[Schema], values: dict[str, Any], origin: str, mistakes: Iterable[str] = ()) -> Schema:
    """`values` as an object of `schema`. Raises LinchainError with `mistakes` and all that the schema finds."""
    mistakes = list(mistakes)
    config = None
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        mistakes = [_describe(detail, schema) for detail in error.errors() if not _follows(detail)] + mistakes
    if mistakes:
        raise LinchainError(_together(origin, mistakes))
    assert config is not None
    return config


def parse_yaml(text: str, origin: str) -> Any:
    """YAML with 1.2's numbers (`3e-4` is one) and without duplicate keys; LinchainError names the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise LinchainError(f"{origin}{line}: not valid YAML ({error.problem})") from error
    # the last ones: dates and numbers that are none, such as 2020-13-40
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise LinchainError(f"{origin}: not valid YAML ({first_line(error)})") from error
    except RecursionError as error:
        raise LinchainError(f"{origin}: not valid YAML (nested too deeply)") from error


class _Loader(yaml.SafeLoader):
    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        _size(root, {})
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(problem="a key is no text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > LONGEST_INTEGER:
        problem = f"an integer of more than {LONGEST_INTEGER:,} digits"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _size(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """The number of nodes below `node`, those of an alias counted each time: a few lines of aliases can stand for 10**9.
    Long texts count by their length, since an alias of one is printed each time where the value is found wrong.

    Raises MarkedYAMLError for more than LARGEST, and for what holds itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1 if node is None else 1 + len(node.value) // 100
    if id(node) not in sizes:
        sizes[id(node)] = LARGEST  # while it is being counted
        children = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    if sizes[id(node)] >= LARGEST:
        raise yaml.MarkedYAMLError(
            problem=f"it holds itself or more than {LARGEST:,} values", problem_mark=node.start_mark
        )
    return sizes[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _apply(values: dict[str, Any], override: str) -> str | None:
    """Sets one `key.key=value` in `values`; returns the mistake, if there is one."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
        return f"override {override!r}: expected key=value, such as training.learning_rate=3e-4"
    try:
        parsed = parse_yaml(value, "value") if value.strip() else None
    except LinchainError as error:
        return f"override {override!r}: {error}"
    if key.strip() in ("method", "method.name") and isinstance(parsed, str):
        values["method"] = _other_method(values.get("method"), parsed)
        return None
    *sections, last = key.strip().split(".")
    inside = values
    for section in sections:
        current = inside.get(section) or {}
        if isinstance(current, str) and section in NAMED_SECTIONS:
            current = {"name": current}
        if not isinstance(current, dict):
            return f"override {override!r}: {section} is not a section; it is {current!r:.80}"
        inside[section] = dict(current)
        inside = inside[section]
    inside[last] = parsed
    return None


def _other_method(before: Any, name: str) -> Any:
    """The section `method` with another name and those of its options that the method of that name has, too."""
    from linchain import methods

    if not isinstance(before, dict) or name not in methods.names():
        return name
    return {"name": name} | {key: value for key, value in before.items() if key in methods.get(name).options}


def method_mistakes(method: Any, key: str = "method") -> list[str]:
    """What the method that stands at `key` finds wrong with its options itself."""
    from linchain import methods

    name, options = (method, {}) if not isinstance(method, dict) else (method.get("name", "linchain"), dict(method))
    options.pop("name", None)
    if not isinstance(name, str):
        return []  # the schema has reported it
    try:
        methods.get(name).peft_config(options)
    except LinchainError as error:
        return [f"{key}: {line}" for line in str(error).splitlines()]
    return []


def _follows(detail: ErrorDetails) -> bool:
    """Whether a list is said to be too short for its wrong entries alone, which are reported themselves."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _describe(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    """One of pydantic's findings in our words: the key, the value, what is accepted."""
    location = [str(part) for part in detail["loc"]]
    key = re.sub(r"\.(\d+)", r"[\1]", ".".join(location))
    found = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            accepted = sorted(_fields_at(schema, location[:-1]))
            close = nearest(location[-1], accepted) or _elsewhere(schema, location[-1])
            hint = f"; did you mean {close!r}?" if close else "."
            return f"{key}: unknown key{hint} Accepted: {', '.join(accepted)}"
        case "missing":
            return f"{key}: required, but not given"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{key}: {message}" if key else message
        case "literal_error":
            expected = detail["ctx"]["expected"]
            close = nearest(str(found), re.findall(r"'([^']+)'", expected))
            hint = f"; did you mean {close!r}?" if close else ""
            return f"{key}: must be {expected}, found {found!r:.80}{hint}"
        case "list_type" | "tuple_type" | "too_short":
            field = schema.model_fields.get(location[-1])
            example = f" such as {field.examples[0]}" if field and field.examples else ""
            return f"{key}: must be a list{example}, found {found!r:.80}"
        case "dict_type" | "model_type":
            return f"{key}: must be a mapping of keys to values, found {found!r:.80}"
        case _:
            message = detail["msg"].replace("Input should be", "must be", 1)
            return f"{key}: {message}, found {found!r:.80}"


def _fields_at(model: type[BaseModel], location: list[str]) -> set[str]:
    for part in location:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)
        model = annotation
    return set(model.model_fields)


def _elsewhere(schema: type[BaseModel], key: str) -> str | None:
    """The dotted place of `key` in a section of `schema`: what `learning_rate=1e-3` was meant to be."""
    for section, field in schema.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel) and key in inside.model_fields:
            return f"{section}.{key}"
    return None


def _together(origin: str, mistakes: list[str]) -> str:
    if len(mistakes) == 1:
        return f"{origin}: {mistakes[0]}"
    listed = "\n".join(f"  {mistake}" for mistake in mistakes)
    return f"{origin}: {len(mistakes)} mistakes\n{listed}"


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(left: RunConfig, right: RunConfig) -> list[str]:
    """`key: old is now new` for each key in which two configurations differ, but for `output`: where a run lies, and by
    which path it is named, is no part of it."""
    old, new = (dict(_flat(config.model_dump(mode="json", exclude={"output"}))) for config in (left, right))
    return [
        f"{key}: {old.get(key)!r} is now {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
