"""What the files of a run must hold to be compared. They may have been cut or edited, and a comparison may be a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from linchain.files import read_json, read_jsonl
from linchain.training.load_config import validated

EXACT = 2**53  # up to which a number is exact as a float


class _Held(BaseModel):
    """Only what is read is looked at."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Score(_Held):
    name: str
    value: float | None
    task: str | None = None


class _Parameters(_Held):
    trainable: int = Field(ge=0, le=EXACT)
    total: int = Field(ge=1, le=EXACT)


class _Cost(_Held):
    seconds_per_step: float
    peak_memory_bytes: float | None
    memory_before_bytes: float | None


class Result(_Held):
    """result.json."""

    scores: dict[str, list[_Score]]
    parameters: _Parameters
    seconds: float
    resumed_from_step: int | None
    cost: _Cost | None


class Failure(_Held):
    """error.json."""

    error: str
    diverged: bool


class _Overlap(_Held):
    test: str
    n: int
    same: int
    near: int


class Environment(_Held):
    """environment.json."""

    versions: dict[str, str]
    platform: str
    devices: list[str]
    threads: int
    commit: str | None
    model: dict[str, str]
    data: dict[str, dict[str, Any]]
    overlap: list[_Overlap] = []
    validation_overlap: list[_Overlap] = []


class Logged(_Held):
    """A line of metrics.jsonl."""

    step: int = Field(ge=0, le=EXACT)
    loss: float | None = None
    eval_loss: float | None = None


class Measured(_Held):
    """A line of diagnostics.jsonl."""

    step: int = Field(ge=0, le=EXACT)
    rank: int | None = None
    norm: float | None = None
    entropy_rank: float | None = None
    stable_rank: float | None = None
    participation_ratio: float | None = None
    folding_error: float | None = None
    gradients: dict[str, float | None] | None = None
    factors: dict[str, list[float | None]] | None = None


class Predicted(_Held):
    """A line of predictions/*.jsonl."""

    id: int | str
    task: str | None = None
    correct: bool | None = None
    loss: float | None = None
    tokens: int | None = None
    label: float | str | None = None
    prediction: float | str | None = None


def read_file(schema: type[BaseModel], file: Path) -> dict[str, Any]:
    """The object in `file`, as it stands there. Raises LinchainError with its name and key where it is no `schema`."""
    found = read_json(file)
    validated(schema, found, str(file))
    return found


def read_rows(schema: type[BaseModel], file: Path) -> list[dict[str, Any]]:
    """The lines of `file`, as they stand there. Raises LinchainError with line and key where one is no `schema`."""
    rows = read_jsonl(file)
    for number, row in enumerate(rows, 1):
        validated(schema, row, f"{file}:{number}")
    return rows
