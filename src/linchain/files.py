"""What may be written where, and files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linchain.errors import FolderInUseError, LinchainError, first_line

LOCK = ".lock"  # in a folder: who holds it writes there
PART = ".part"  # ends the name of a file that is being written


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


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Make the folder `path` and hold it until left or killed; FolderInUseError where another process holds it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        # not what a link leads to: the folder may be a stranger's
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        lock = os.fdopen(os.open(path / LOCK, flags, 0o666), "w")
    except OSError as error:
        raise LinchainError(f"output folder {path} cannot be written: {error.strerror}: {error.filename}") from error
    with lock:
        try:
            import fcntl
        except ImportError:  # Windows has no flock: the folder is then not guarded against a second process
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUseError(f"output folder {path} is in use by another linchain process") from error
        yield


def refused_by_disk(error: BaseException) -> bool:
    """Whether a write failed because the disk is full, over its quota or read-only, also where safetensors says so."""
    told = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def put_in_place(part: Path, whole: Path) -> None:
    """Rename the file or folder `part` to `whole`, so that `whole` is there with all its bytes or not at all.

    What a program wrote lies in memory first: a machine that loses its power after the rename, and before the bytes
    reached the disk, would keep the name alone.
    """
    for path in (*part.rglob("*"), part):
        sync(path)
    part.replace(whole)
    sync(whole.parent)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that lies in it, or a link and not what it leads to; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until what was written to the file `path`, or the names in the folder `path`, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all. A link at its place is replaced, and never written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    remove(part)
    with part.open("x", encoding="utf-8") as file:
        file.write(text)
    put_in_place(part, path)


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """`write_text` of one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of ours. Raises LinchainError with its name where it cannot be read or holds none."""
    return _object(_text(path), str(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of ours; a last line that a kill cut short is left out.

    Raises LinchainError with the file's name, and with the line that holds no object.
    """
    lines = _text(path).split("\n")[:-1]
    return [_object(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LinchainError(f"{path} cannot be read: {reason}") from error


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LinchainError(f"{place}: not valid JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise LinchainError(f"{place}: expected a mapping of keys to values, found {type(found).__name__}")
    return found
