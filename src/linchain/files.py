"""What may be written where."""

from __future__ import annotations

import tempfile
from pathlib import Path

from linchain.errors import LinchainError


def check_writable(path: Path) -> None:
    """Raise LinchainError where the folder `path` could not be created or written to."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise LinchainError(f"output folder {path} cannot be created: {existing} is a file")
    try:
        # os.access lies for root, on read-only mounts and on network file systems: try it
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise LinchainError(f"output folder {path}: no permission to write in {existing} ({error.strerror})") from error
