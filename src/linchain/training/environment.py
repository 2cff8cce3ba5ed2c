"""What a run was made with: versions, machine, commit, and hashes of the model and the data."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linchain.files import sha256
from linchain.tasks.records import Record

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("linchain", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors")


def describe_environment(model: str, data: dict[str, list[Record]]) -> dict[str, Any]:
    """The content of environment.json: `model` is what the base model was loaded from, `data` each split's records."""
    folder = model_files(model)
    return {
        **describe_machine(),
        "model": hash_model(folder),
        "model_commit": commit_of(folder),
        "data": {split: {"records": len(records), "sha256": hash_records(records)} for split, records in data.items()},
    }


def describe_machine() -> dict[str, Any]:
    """Versions, platform, devices, threads, and the commit of the folder that the run was started in."""
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "devices": devices or ["cpu"],
        "threads": torch.get_num_threads(),
        "commit": git_commit(Path.cwd()),
    }


def git_commit(folder: Path) -> str | None:
    """The commit of the git checkout that `folder` is in, with `+changes` where it has any; None outside of git."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")


def model_files(model: str) -> Path:
    """The folder that holds the files of a model that has been loaded, which for a Hub name is the cache's snapshot."""
    from transformers.utils import cached_file

    return Path(str(cached_file(model, "config.json"))).parent


def commit_of(folder: Path) -> str | None:
    """The commit on the Hub of the model in `folder`, where that is the Hub's cache."""
    return folder.name if folder.parent.name == "snapshots" else None


def hash_model(folder: Path) -> dict[str, str]:
    """SHA-256 of the configuration and of each weight file in `folder`."""
    files = sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")])
    return {file.name: _hash_file(file) for file in files}


def hash_records(records: Iterable[Record]) -> str:
    """SHA-256 of the records' fields as canonical JSON, whatever kind of file they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record.fields, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU with their names, dtypes and shapes."""
    from safetensors.torch import save

    return hashlib.sha256(save(tensors)).hexdigest()


def _hash_file(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs" and len(real.name) == 64:
        return real.name  # the Hub's cache names a large file by its SHA-256
    return sha256(path)
