"""The exceptions of this package, what others' say, and the one way to phrase "no such name"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from signal import Signals


class LinchainError(ValueError):
    """Something that was asked for cannot be done as asked.

    The message names the key, the value, what is accepted and, where there is one, the nearest match. The command line
    prints it without a traceback and exits with status 2. `in_all_processes` says that the other processes of a run, if it
    has any, raise the same: the main one tells.
    """

    in_all_processes = False


class DivergedError(LinchainError):
    """A training whose loss is no longer a number. Started again as it was it would diverge again."""

    in_all_processes = True  # the loss that is watched is the mean over all of them


class FolderInUseError(LinchainError):
    """Another process holds a folder: what is asked for may well be done there just now."""


class RunInterrupted(Exception):
    """Ctrl-C or SIGTERM (`signal`) ended the training; the folder holds a checkpoint of its last step."""

    def __init__(self, message: str, signal: Signals) -> None:
        super().__init__(message)
        self.signal = signal


# What others call our keys, where letters alone would suggest another one.
SYNONYMS = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "lr": "learning_rate"}


def nearest(name: str, accepted: Iterable[str]) -> str | None:
    """The accepted name closest to `name`, or to what `name` is called here; None where none is close.

    >>> nearest("lora_alhpa", ["r", "lora_alpha", "lora_dropout"])
    'lora_alpha'
    >>> nearest("rank", ["r", "rank_pattern"])
    'r'
    """
    matches = difflib.get_close_matches(SYNONYMS.get(name, name), list(accepted), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, accepted: Iterable[str]) -> LinchainError:
    """The error for a name that is none of `accepted` (raised by the caller).

    >>> print(unknown_name("method", "linchian", ["lora", "linchain"]))
    unknown method 'linchian'; did you mean 'linchain'? Accepted: linchain, lora
    """
    accepted = sorted(accepted)
    close = nearest(name, accepted)
    hint = f"; did you mean {close!r}?" if close else "."
    return LinchainError(f"unknown {kind} {name!r}{hint} Accepted: {', '.join(accepted)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get memory; torch says it of the CPU's by plain RuntimeErrors."""
    import torch

    said = ("can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in said)


def first_line(error: Exception) -> str:
    """The first line of a library's message that says something, with the next one where it announces that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


# What a terminal obeys instead of showing it, what turns the direction of writing, and halves of characters.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` for a terminal: control characters, which data may hold, are written as escapes. Lines stay lines.

    >>> print(printable("\x1b[2Jgone"))
    \x1b[2Jgone
    """
    return _OBEYED.sub(lambda found: repr(found.group())[1:-1], text)
