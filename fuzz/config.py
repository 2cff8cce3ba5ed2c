"""Configurations and plans: YAML text with dotted overrides, and mappings of every shape."""

from __future__ import annotations

import copy
from typing import Any

from fuzz.choices import Choices, scratch
from linchain import methods
from linchain.errors import LinchainError
from linchain.lab.plan import PlanConfig, build_plan, load_plan
from linchain.training.config import RunConfig
from linchain.training.load_config import build_config, dump_config, load_config

RUN = {
    "model": "starter",
    "method": {"name": "linchain"},
    "data": {"train": "a.jsonl", "test": "b.jsonl"},
    "output": "o",
}
PLAN = {
    **{key: value for key, value in RUN.items() if key != "method"},
    "methods": ["lora", {"name": "linchain"}],
    "options": {"target_modules": ["q_proj"]},
    "learning_rates": [1e-3],
}
TEXT = "model: starter\nmethod: {name: linchain, r: 4}\ndata: {train: a.jsonl}\ntraining: {max_steps: 2}\n"


def _paths(schema: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all keys of a schema."""
    found = []
    for name, field in schema.model_fields.items():
        found.append((*prefix, name))
        if hasattr(field.annotation, "model_fields"):
            found += _paths(field.annotation, (*prefix, name))
    return found


NAMES = sorted(methods.names())
OPTIONS = sorted({option for name in NAMES for option in methods.get(name).options})
RUN_PATHS = [*_paths(RunConfig), *(("method", option) for option in OPTIONS), ("extra",)]
PLAN_PATHS = [*_paths(PlanConfig), *(("options", option) for option in OPTIONS), ("methods", "label"), ("methods", "r")]
FILE = scratch() / "run.yaml"


def check(data: bytes) -> None:
    """One case. Nothing but LinchainError may come out of it."""
    choices = Choices(data)
    kind = choices.byte() % 4
    try:
        if kind == 0:
            config = build_config(_changed(choices, RUN, RUN_PATHS))
            assert build_config(config.model_dump(mode="json")) == config
        elif kind == 1:
            build_plan(_changed(choices, PLAN, PLAN_PATHS))
        else:
            _text(choices, kind)
    except LinchainError as error:
        assert str(error).strip()  # noqa: PT017  it says what is wrong


def _text(choices: Choices, kind: int) -> None:
    overrides = []
    for _ in range(choices.byte() % 4):
        path = ".".join(choices.pick(RUN_PATHS if kind == 2 else PLAN_PATHS))
        overrides.append(f"{path}={choices.value()}" if choices.byte() % 4 else choices.text())
    FILE.write_bytes((TEXT.encode() if choices.byte() % 2 else b"") + choices.rest())
    if kind == 2:
        dump_config(load_config(FILE, overrides))
    else:
        load_plan(FILE, overrides)


def _changed(choices: Choices, values: dict[str, Any], paths: list[tuple[str, ...]]) -> dict[str, Any]:
    """A copy of `values` with up to four keys set to anything."""
    values = copy.deepcopy(values)
    for _ in range(choices.byte() % 5):
        *sections, last = choices.pick(paths)
        inside: Any = values
        for section in sections:
            if isinstance(inside.get(section), list):
                inside[section] = [*inside[section][:1], {"name": choices.pick(NAMES)}]
                inside = inside[section][-1]
                continue
            inside = inside.setdefault(section, {}) if isinstance(inside.get(section, {}), dict) else {}
        inside[last] = choices.pick(NAMES) if last == "name" and choices.byte() % 2 else choices.value()
    return values
