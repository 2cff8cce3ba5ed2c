"""`linchain inspect`: parameters, adapter size and memory of a method on a model, or what lies in a saved adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linchain.errors import LinchainError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from linchain.diagnostics.inspect_adapter import AdapterReport
    from linchain.diagnostics.inspect_model import ModelReport
    from linchain.training.diagnose import StepMeans


def inspect(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="A saved adapter or a run folder to look into; or options of the method, such as lora_alpha=64.",
            metavar="[ADAPTER|RUN] | [KEY=VALUE]...",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="llama-2-7b, llama-3-8b, roberta-base, starter, a folder with a config.json, or a Hub name."),
    ] = None,
    method: Annotated[str, typer.Option(help="A method of `linchain methods`.")] = "linchain",
    r: Annotated[int | None, typer.Option("--r", help="Rank.")] = None,
    chain_length: Annotated[int | None, typer.Option(help="Number of square matrices in the chain.")] = None,
    chain_widths: Annotated[str | None, typer.Option(help="Widths of the chain, e.g. 8,16,8.")] = None,
    targets: Annotated[str | None, typer.Option(help="Target modules, e.g. q_proj,v_proj, or all-linear.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the base weights: auto, float32, bfloat16 or float16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Sequences in a forward pass, for the memory estimate.")] = 4,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a sequence, for the memory estimate.")] = 256,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute each layer in the backward.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a method costs on a model, or what a saved adapter holds. Nothing is trained, nothing is loaded."""
    named = {
        "r": r,
        "chain_length": chain_length,
        "chain_widths": _widths(chain_widths),
        "target_modules": _targets(targets),
    }
    adapter, options = _arguments(arguments or [], {key: value for key, value in named.items() if value is not None})
    if adapter is None and model is None:
        raise LinchainError("inspect needs --model and --method, or the folder of a saved adapter")
    if adapter is not None and (model is not None or options):
        raise LinchainError(f"inspect takes the adapter {adapter!r} or a model with options, not both")

    from linchain.quiet import quiet_libraries

    quiet_libraries()
    if adapter is not None:
        _inspect_saved(adapter, as_json)
        return
    from linchain.diagnostics.inspect_model import inspect_model

    assert model is not None
    report = inspect_model(
        model,
        method,
        options,
        dtype=dtype,
        batch_size=batch_size,
        sequence_length=sequence_length,
        gradient_checkpointing=gradient_checkpointing,
    )
    _print_json(report, percent=report.percent) if as_json else _print_model(report)


def _inspect_saved(path: str, as_json: bool) -> None:
    """An adapter, and what was measured while it was trained; the latter alone for a run that has no adapter (yet)."""
    from linchain.diagnostics.inspect_adapter import inspect_adapter
    from linchain.training.diagnose import along_training
    from linchain.training.run_folder import RunFolder

    steps = along_training(path)
    found = None if steps and not RunFolder(path).adapter.is_dir() else inspect_adapter(path)
    if as_json:
        _print_json(found, training=steps)
        return
    if found is not None:
        _print_adapter(found)
    if steps:
        _print_training(steps)


def _widths(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(width) for width in text.split(",")]
    except ValueError:
        raise LinchainError(f"--chain-widths takes positive integers such as 8,16,8, got {text!r}") from None


def _targets(text: str | None) -> list[str] | str | None:
    return text if text in (None, "all-linear") else [name.strip() for name in text.split(",")]


def _arguments(arguments: list[str], options: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The adapter's path, if one is among the arguments, and the method's options with the KEY=VALUE ones added."""
    from linchain.training.load_config import parse_yaml

    paths = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            paths.append(argument)
        elif key in options:
            raise LinchainError(f"{key} is given twice: {options[key]!r} and {value!r}")
        else:
            options[key] = parse_yaml(value, argument)
    if len(paths) > 1:
        raise LinchainError(f"inspect takes one adapter, got {', '.join(paths)}")
    return (paths[0] if paths else None), options


def _print_json(report: ModelReport | AdapterReport | None, **computed: Any) -> None:
    from dataclasses import asdict, is_dataclass

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    typer.echo(json.dumps({**(asdict(report) if report else {}), **computed}, indent=2, default=plain))


def _print_model(report: ModelReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{report.method} on {report.model} ({report.architecture})", markup=False)
    console.print(f"trainable parameters  {report.trainable:,} ({report.percent:.4f} % of {report.total:,})")
    console.print(f"saved on disk         {_size(report.saved_bytes)} ({report.saved_bytes:,} bytes, safetensors)\n")
    modules = _table("module", "weight", "modules", "parameters")
    for row in report.modules:
        shape = " x ".join(map(str, row.shape)) if row.shape else "in full"
        modules.add_row(row.name, shape, f"{row.count:,}", f"{row.parameters:,}")
    console.print(modules)
    memory = report.memory
    parts = _table("training memory", "estimate")
    for name in ("weights", "gradients", "optimizer", "activations"):
        value = getattr(memory, name)
        parts.add_row(name, "unknown" if value is None else _size(value))
    parts.add_row("total", _size(memory.total))
    console.print()
    console.print(parts)
    for assumption in memory.assumptions:
        console.print(f"- {assumption}", markup=False)


def _print_adapter(report: AdapterReport) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(f"{report.kind} adapter in {report.folder}", markup=False, soft_wrap=True)
    console.print(f"parameters  {report.parameters:,}")
    console.print(f"on disk     {_size(report.file_bytes)} ({report.file_bytes:,} bytes, safetensors)\n")
    config = _table("configuration", "value")
    for key, value in report.config.items():
        config.add_row(*(Text(printable(text)) for text in (key, str(value))))
    tensors = _table("tensor", "shape", "dtype", "count")
    for group in report.tensors:
        tensors.add_row(Text(printable(group.key)), " x ".join(map(str, group.shape)), group.dtype, str(group.count))
    ranks = _table("update", "rank at most", "entropy rank", "stable rank", "participation")
    for row in report.ranks:
        measures = (f"{value:.2f}" for value in (row.entropy, row.stable, row.participation))
        ranks.add_row(Text(printable(row.module)), str(row.rank), *measures)
    for table in (config, tensors, ranks):
        if table.rows:
            console.print(table)
            console.print()


def _print_training(steps: list[StepMeans]) -> None:
    from rich.console import Console

    table = _table("update after step", "norm", "entropy rank", "stable rank", "participation")
    for row in steps:
        measures = (row.norm, row.entropy, row.stable, row.participation)
        table.add_row(str(row.step), *("-" if value is None else f"{value:.3g}" for value in measures))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Means over {steps[-1].modules} modules; diagnostics.jsonl has each.")


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name == "value" else "right", overflow="fold")
    return table


def _size(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.2f} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:,.2f} GiB"
