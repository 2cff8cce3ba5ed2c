"""`linchain train`: fine-tune a model as a configuration file says."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Dotted overrides: training.learning_rate=1e-3 method=lora", metavar="[KEY=VALUE]..."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in the output folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again in the folder of an earlier run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop after the report of parameters, memory and steps.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first training example with its loss mask, and stop.")
    ] = False,
) -> None:
    """Fine-tune a model as CONFIG says, evaluate it before and after, and write the run's folder."""
    from rich.console import Console

    from linchain.errors import LinchainError, RunInterrupted
    from linchain.processes import agreed, is_main, joined
    from linchain.quiet import quiet_libraries
    from linchain.training.load_config import load_config
    from linchain.training.run import Start, check_folder, load_and_report, run_prepared

    quiet_libraries()
    console = Console(quiet=not is_main())
    start = Start(resume=resume, overwrite=overwrite)
    with joined():
        with agreed():
            settings = load_config(config, overrides or ())
            refusal = None
            try:
                folder = None if preview else check_folder(settings, start)
            except LinchainError as error:
                if not dry_run:  # which writes nothing, and has more to say
                    raise
                folder, refusal = None, error

            from linchain.training.prepare import prepare_data

            data = prepare_data(settings)
            if preview:
                from linchain.training.display import preview as preview_of

                console.print(preview_of(data))
                return
            model = load_and_report(settings, data, console)
        if folder is None or dry_run:
            if refusal:
                console.print(f"without --dry-run: {refusal}", markup=False, highlight=False, soft_wrap=True)
            return
        try:
            run_prepared(settings, start, folder, data, model, console)
        except (RunInterrupted, KeyboardInterrupt) as interruption:
            what = shlex.join(["linchain", "train", str(config), *(overrides or ()), "--resume"])
            reason = str(interruption) or f"stopped ({folder.progress()})"
            console.print(f"{reason}; continue with: {what}", markup=False, highlight=False, soft_wrap=True)
            # what shells say of a signal's end: 130 after Ctrl-C, 143 after a scheduler's SIGTERM
            number = interruption.signal if isinstance(interruption, RunInterrupted) else signal.SIGINT
            raise typer.Exit(128 + number) from None
