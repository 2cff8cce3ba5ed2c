"""The catalogue of fine-tuning methods that `train`, `compare` and `inspect` choose from.

To add a method: write a file here that declares `METHODS`, and name it below. Nothing here imports peft before a
configuration is asked for.
"""

from __future__ import annotations

from linchain.errors import unknown_name
from linchain.methods import bone, full, linchain, lora, miss, moslora
from linchain.methods.base import Method

__all__ = ["Method", "catalogue", "get", "names"]

_METHODS = {method.name: method for module in (full, lora, moslora, linchain, bone, miss) for method in module.METHODS}


def catalogue() -> list[Method]:
    """All methods, simplest first."""
    return list(_METHODS.values())


def names() -> list[str]:
    """The methods' names, in the catalogue's order."""
    return list(_METHODS)


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        LinchainError: For an unknown name, with the nearest match.
    """
    if name not in _METHODS:
        raise unknown_name("method", name, _METHODS)
    return _METHODS[name]
