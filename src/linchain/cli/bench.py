"""`linchain bench`: what a training step costs on this machine, adapters side by side."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    model: Annotated[
        str | None,
        typer.Option(help="llama-2-7b, llama-3-8b, or a folder with a config.json: its shape, with random weights."),
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of a LLaMA to build instead. Default: 1024.")] = None,
    intermediate: Annotated[int | None, typer.Option(help="Width of its MLP. Default: 8/3 of --hidden.")] = None,
    heads: Annotated[
        int | None, typer.Option(help="Its attention heads. Default: one for each 64 of --hidden.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(help="Its output tokens. Default: 1024.")] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers. Default: 1, or the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences in a step.")] = 1,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    r: Annotated[int, typer.Option("--r", help="Rank of LinChain and LoRA.")] = 16,
    lora_alpha: Annotated[int, typer.Option(help="Their scale is lora_alpha / r.")] = 32,
    lora_dropout: Annotated[float, typer.Option(help="Their dropout.")] = 0.0,
    chain_length: Annotated[int, typer.Option(help="Number of matrices in LinChain's chain.")] = 3,
    bone_r: Annotated[int, typer.Option(help="Block size of Bone, BAT and MiSS.")] = 64,
    targets: Annotated[
        str, typer.Option(help="Names of the adapted modules.")
    ] = "q_proj,k_proj,v_proj,up_proj,down_proj",
    dtype: Annotated[str, typer.Option(help="Of the frozen weights: bfloat16 or float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU cores to use and to stay on. Default: all.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Default: as many as fit into a minute, 5 to 20; 4 on a GPU.")
    ] = None,
    steps_per_round: Annotated[
        int | None, typer.Option(help="Steps in a row of each contestant. Default: 1; 5 on a GPU.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Contestants, e.g. linchain,peft-lora; the floor always is one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batch and order.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured to this file.")
    ] = None,
) -> None:
    """Time whole training steps of LinChain, Bone, PEFT's LoRA and others on this machine. Nothing is downloaded."""
    from linchain.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from linchain.bench.report import report
    from linchain.bench.run import Plan, measure
    from linchain.bench.workload import Workload
    from linchain.errors import LinchainError
    from linchain.files import check_writable

    workload = Workload(
        model=model,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        vocab=vocab,
        layers=layers,
        batch_size=batch_size,
        sequence_length=sequence_length,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        chain_length=chain_length,
        bone_r=bone_r,
        targets=tuple(_names(targets)),
        dtype=dtype,
        device=device,
        seed=seed,
    )
    plan = Plan(None if only is None else _names(only), rounds, steps_per_round, threads)
    if json_file is not None:
        if json_file.is_dir():
            raise LinchainError(f"--json {json_file} is a folder: give the name of a file")
        check_writable(json_file.parent)
    result: dict[str, Any] = {"command": shlex.join(["linchain", *sys.argv[1:]])}
    result |= measure(workload, plan, Console(stderr=True))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    console.print(report(result))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {json_file}", markup=False, soft_wrap=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
