"""Keeps the libraries' own bars and remarks off a command's output; their errors still come through."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from linchain.errors import printable


def quiet_libraries() -> None:
    """Called by a command, and by a run of a comparison, before it loads anything."""
    for name in ("torchao", "bitsandbytes", "torch.utils._pytree", "lm_eval"):  # on binaries, casts, enums and defaults
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="torch|transformers|peft|accelerate")
    warnings.showwarning = _show


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning in one line, as text: it may quote what a stranger's file holds."""
    print(printable(f"warning: {message}"), file=sys.stderr)
