"""What a user's, or a file's, word for a path stands for."""

from __future__ import annotations

import os
from pathlib import Path

from linchain.errors import LinchainError

LONGEST_PART = 255  # bytes between two slashes, on all common file systems


def user_path(name: Path | str) -> Path:
    """The path that a user's `name` stands for, with `~` and `~user` replaced. LinchainError where it can be none."""
    try:
        path = Path(name).expanduser()
        possible = "\0" not in str(path) and all(len(os.fsencode(part)) <= LONGEST_PART for part in path.parts)
    except (RuntimeError, UnicodeEncodeError) as error:  # no such user; half a character
        raise LinchainError(f"path {str(name)!r:.80} cannot be followed: {error}") from error
    if not possible:
        raise LinchainError(
            f"path {str(name)!r:.80} can be no file's: it holds a null or a name of over {LONGEST_PART} bytes"
        )
    return path
