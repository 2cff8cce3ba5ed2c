"""The page of all commands, from what `--help` says: `python -m linchain.cli.page`."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from linchain.cli.app import app

HEAD = """# Commands

What `linchain COMMAND --help` says. Written by `python -m linchain.cli.page > docs/commands.md`.

A mistake in what was asked for is one line on the standard error and exit status 2; nothing has been started then. What the
messages mean: [troubleshooting](troubleshooting.md).
"""


def commands_page() -> str:
    """The page in Markdown: one section a command."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="linchain")
    names = group.list_commands(context)  # type: ignore[attr-defined]
    commands = [(name, group.get_command(context, name)) for name in names]  # type: ignore[attr-defined]
    return "\n".join([HEAD, *(_section(command, context, name) for name, command in commands)])


def _section(command: typer.core.TyperCommand, parent: typer.Context, name: str) -> str:
    context = typer.Context(command, info_name=name, parent=parent)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [_metavar(parameter) for parameter in shown if isinstance(parameter, typer.core.TyperArgument)]
    usage = " ".join([context.command_path, "[OPTIONS]", *arguments])
    table = "\n".join(["| | default | |", "|---|---|---|", *(_row(parameter, context) for parameter in shown)])
    return f"## {name}\n\n```text\n{usage}\n```\n\n{inspect.cleandoc(command.help or '')}\n\n{table}\n"


def _metavar(argument: typer.core.TyperArgument) -> str:
    name = argument.metavar or str(argument.name).upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _row(parameter: Any, context: typer.Context) -> str:
    """An argument by its name, an option with what it takes; no default is left empty."""
    if isinstance(parameter, typer.core.TyperArgument):
        written = f"`{_metavar(parameter)}`"
    else:
        written = ", ".join(f"`{name}`" for name in parameter.opts)
        written += f" `{parameter.metavar}`" if parameter.metavar else ""
    empty = parameter.default is None or parameter.default is False
    default = "required" if parameter.required else "" if empty else f"`{parameter.default}`"
    text = " ".join((parameter.help or "").split())
    cells = (cell.replace("|", "\\|") for cell in (written, default, text))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(commands_page(), end="")
