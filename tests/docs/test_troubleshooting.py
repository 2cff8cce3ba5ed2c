"""Every message that docs/troubleshooting.md quotes as ours is one that the source can raise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


def quoted() -> list[str]:
    """The messages in front of each dash; not those that are said to be another program's."""
    heads = [match[1] for match in re.finditer(r"^- (.*?) — ", PAGE, flags=re.MULTILINE | re.DOTALL)]
    ours = [head for head in heads if not re.search(r"\(of \w+\)$", head)]
    return [message for head in ours for message in re.findall(r"`([^`]+)`", head)]


def texts() -> list[str]:
    """Every piece of text in the source, with … for what a formatted one puts in."""
    found = []
    for path in (ROOT / "src/linchain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [value.value if isinstance(value, ast.Constant) else "…" for value in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TEXTS = texts()


def raised(message: str) -> bool:
    """Whether the pieces of the message between its dots stand in one text, in this order."""
    pieces = [piece.strip() for piece in message.split("…") if piece.strip(" ,.:;()")]
    pattern = re.compile(".*".join(map(re.escape, pieces)), flags=re.DOTALL)
    return any(pattern.search(text) for text in TEXTS)


@pytest.mark.parametrize("message", quoted())
def test_the_message_exists(message: str) -> None:
    assert raised(message)


def test_a_message_that_does_not_exist_is_noticed() -> None:
    assert len(quoted()) > 40
    assert not raised("model folder … does not exits")
    assert not raised("does not exist … model folder")
