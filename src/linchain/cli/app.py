"""The `linchain` executable: gathers the commands and turns a user's mistake into one line and exit status 2."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from linchain.cli.bench import bench
from linchain.cli.compare import compare
from linchain.cli.evaluate import evaluate
from linchain.cli.export import export
from linchain.cli.inspect import inspect
from linchain.cli.methods import methods
from linchain.cli.report import report
from linchain.cli.train import train
from linchain.errors import LinchainError, printable
from linchain.processes import is_main, launched

app = typer.Typer(
    name="linchain",
    help="Fine-tune language models with LinChain, Bone and the methods that they are compared with; export what was trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def check_launch(context: typer.Context) -> None:
    if launched() > 1 and context.invoked_subcommand != train.__name__:
        error = LinchainError(
            f"linchain {context.invoked_subcommand} is one process (compare starts one for each GPU by itself); start it "
            "without torchrun or accelerate launch"
        )
        error.in_all_processes = True
        raise error


app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.command()(export)
app.command()(inspect)
app.command()(methods)
app.command()(bench)


def main() -> None:
    """Entry point of the `linchain` script."""
    try:
        app()
    except LinchainError as error:
        # markup off: a path or a key in the message may hold square brackets
        quiet = error.in_all_processes and not is_main()
        Console(stderr=True, quiet=quiet).print(
            printable(f"error: {error}"), style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
