"""What the runs of a comparison were made with: the same model and data for all of them, or a refusal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from linchain.errors import LinchainError

# What of the test data the training data hold, and the validation data.
OVERLAPS = ("overlap", "validation_overlap")


def gather(environments: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One environment from the environment.json of many runs, by the name of each; empty for none.

    It is the last one's, with the data of every split, the OVERLAPS that the runs with test data found, and `differing`: by
    key (`threads`, `versions.torch`) the values of what was not the same for all, in the order that the runs come in.

    Raises LinchainError where two runs read another model or other data (`check_same`).
    """
    check_same(environments)
    found: dict[str, Any] = {}
    for one in environments.values():
        overlaps = {key: one.get(key) or found.get(key, []) for key in OVERLAPS}
        found = {**one, "data": {**found.get("data", {}), **one["data"]}, **overlaps}
    found.pop("start", None)  # that of one contestant's adapter
    return {**found, "differing": _differing(environments.values())} if found else {}


def check_same(environments: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises LinchainError, with the names of both, where one reads another model or other data than one before it."""
    first: dict[str, tuple[str, Any]] = {}
    for name, one in environments.items():
        read = {"model files": one["model"], **{f"{split} data": hashes for split, hashes in one["data"].items()}}
        for what, hashes in read.items():
            before, expected = first.setdefault(what, (name, hashes))
            if hashes != expected:
                raise LinchainError(
                    f"{name} reads other {what} than {before}, so that no table may hold both: put the old files back, choose "
                    "another output, or delete the runs that read the old ones"
                )


def _differing(environments: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = defaultdict(list)
    for one in environments:
        flat = {f"versions.{package}": version for package, version in one["versions"].items()}
        flat |= {key: one[key] for key in ("platform", "devices", "threads", "commit")}
        for key, value in flat.items():
            if value not in values[key]:
                values[key].append(value)
    return {key: found for key, found in values.items() if len(found) > 1}
