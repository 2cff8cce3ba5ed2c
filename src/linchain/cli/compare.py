"""`linchain compare`: methods, learning rates and seeds under one protocol, and the report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def compare(
    plan: Annotated[Path, typer.Argument(help="YAML file of the comparison.", metavar="PLAN")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted overrides: seeds=5 training.max_steps=200", metavar="[KEY=VALUE]..."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, their parameters, memory and time, and stop.")
    ] = False,
    executor_name: Annotated[
        str,
        typer.Option(
            "--executor",
            metavar="WHERE",
            help="local: processes of this machine. ray: the Ray cluster that RAY_ADDRESS names, else that of this machine.",
        ),
    ] = "local",
) -> None:
    """Search, train and test every method of PLAN alike, and write a report. Started again, it continues."""
    from rich.console import Console

    from linchain.quiet import quiet_libraries

    quiet_libraries()

    if not dry_run:
        from linchain.lab.report import check_installed

        check_installed()

    from linchain.lab.compare import check_folder, run_plan
    from linchain.lab.describe import describe
    from linchain.lab.executor import open_executor
    from linchain.lab.outcome import outcome
    from linchain.lab.plan import load_plan
    from linchain.lab.report import write_report
    from linchain.lab.trials import Comparison

    console = Console()
    comparison = Comparison(load_plan(plan, overrides or ()))
    check_folder(comparison)
    with open_executor(executor_name, comparison.folder, comparison.plan.threads) as executor:
        console.print(describe(comparison, executor, costs=dry_run))
        if dry_run:
            return
        try:
            comparison = run_plan(comparison, console, executor)
        except KeyboardInterrupt:
            where = [] if executor_name == "local" else ["--executor", executor_name]
            again = shlex.join(["linchain", "compare", *where, str(plan), *(overrides or ())])
            console.print(f"stopped; continue with: {again}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
    console.print(outcome(comparison))
    written = write_report([comparison], comparison.folder, console)
    console.print(f"report: {written}", markup=False, highlight=False, soft_wrap=True)
