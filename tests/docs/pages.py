"""A page of the docs as a script: its code blocks from top to bottom, in one folder, as a reader would run them.

- `python` blocks share their names down the page.
- Of `bash` blocks the lines that begin with `linchain` are run, shortened where they train or measure. Others may only be
  `make`.
- A block with a title is the file of that name. `yaml` blocks are a run's configuration, or a plan.
- Under `<!-- not run: why -->` nothing is run, but the commands must still be ones that linchain takes, and so must those
  behind a `$` in `console` blocks.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from linchain.cli.app import app
from linchain.lab.plan import load_plan
from linchain.training.load_config import load_config

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "bash", "yaml", "json", "console", "text"}
SHORT = ["training.max_steps=2", "data.limit=32", "evaluation.limit=8"]
SMALL_PLAN = [*SHORT, "training.warmup_steps=0", "learning_rates=[1e-3]", "seeds=1", "cost.rounds=0"]
TINY_BENCH = shlex.split("--hidden 64 --bone-r 32 --sequence-length 16 --rounds 1 --only linchain,peft-lora")
SHORTER = {"train": SHORT, "compare": SMALL_PLAN, "evaluate": ["--limit", "8"], "bench": TINY_BENCH}

_FENCE = re.compile(
    r'^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is (a title), and why it is not run, where it is not."""

    language: str
    text: str
    line: int
    title: str | None
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words behind `linchain` of each of its lines."""
        start = "$ linchain " if self.language == "console" else "linchain "
        found = [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith(start)]
        return [shlex.split(line, comments=True)[1:] for line in found]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(match["language"], match["text"], text[: match.start()].count("\n") + 1, match["title"], match["reason"])
        for match in _FENCE.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^```", text, flags=re.MULTILINE)), f"{page.name}: a block is not closed"
    return found


def parse(command: list[str]) -> None:
    """Fail where linchain has no such command, argument or option."""
    group: Any = typer.main.get_command(app)
    found = group.get_command(typer.Context(group), command[0])
    assert found is not None, command
    found.make_context(command[0], list(command[1:]))


def run_page(page: Path) -> str:
    """Run a page's blocks in the working directory; returns what its commands printed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    (Path.cwd() / "recipes").symlink_to(ROOT / "recipes")
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.language in LANGUAGES, where
        if block.reason or block.language == "console":
            for command in block.commands:
                parse(command)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "bash":
            printed += [_run(command) for command in block.commands]
            others = [line for line in block.text.splitlines() if not line.startswith("linchain ")]
            assert all(line.startswith("make ") for line in others), where
        elif block.language == "yaml" or block.title:
            _write(block)
    assert not Path("dry").exists()
    return "\n".join(printed)


def _run(command: list[str]) -> str:
    extra = SHORTER.get(command[0], [])
    if "--dry-run" in command:  # the folder that the file names may hold a run by now
        extra = [*extra, "output=dry"]
    result = CliRunner().invoke(app, [*command, *extra])
    assert result.exit_code == 0, (command, result.output, result.exception)
    return result.output


def _write(block: Block) -> None:
    file = Path(block.title or f"block-{block.line}.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(block.text, encoding="utf-8")
    if block.language == "yaml":
        (load_plan if "\nlearning_rates:" in block.text else load_config)(file)
