"""A small model and word problems of our own, so that the first command needs no download.

In a run's configuration: `model: starter` and, as data, `starter:<kind>`.
"""

from __future__ import annotations

from pathlib import Path

from linchain.starter.word_problems import kinds, problems

__all__ = ["kinds", "model_dir", "problems"]


def model_dir() -> Path:
    """The folder of the packaged model and tokenizer: a Llama of the size and skill that its README.md states."""
    return Path(__file__).parent / "model"
