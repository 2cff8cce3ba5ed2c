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


def _is_own_command() -> bool:
    program = Path((getattr(sys, "argv", None) or [""])[0]).stem
    if program == "-m":  # what Python calls itself until it has found the module to run
        return "linchain" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("linchain") - 1] == "-m"
    return program == "linchain"


# Registration imports torch and peft, which takes seconds. Only our own command, `linchain` or `python -m linchain`, defers
# it (its parts import what they need), so that `--help` is instant. No other program can be called so and still import this
# package: a script named linchain.py would shadow it.
if not _is_own_command():
    importlib.import_module("linchain.tuners")
