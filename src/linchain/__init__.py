"""LinChain and Bone for Hugging Face PEFT.

Importing this package registers its methods with PEFT, so that `get_peft_model`, `PeftModel.from_pretrained` and all that is
built on them know the types `LINCHAIN` and `BONE`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "BoneConfig": "linchain.tuners.bone.config",
    "BoneModel": "linchain.tuners.bone.model",
    "LinChainConfig": "linchain.tuners.linchain.config",
    "LinChainModel": "linchain.tuners.linchain.model",
    "LinchainError": "linchain.errors",
    "fold_to_lora": "linchain.convert",
}
__all__ = ["BoneConfig", "BoneModel", "LinChainConfig", "LinChainModel", "LinchainError", "__version__", "fold_to_lora"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'linchain' has no attribute {name!r}")


# Registration imports torch and peft, which takes seconds. Only our own executable defers it (its commands import what
# they need), so that `linchain --help` is instant. No other program can be called so and still import this package: a
# script named linchain.py would shadow it.
if Path((getattr(sys, "argv", None) or [""])[0]).stem != "linchain":
    importlib.import_module("linchain.tuners")
