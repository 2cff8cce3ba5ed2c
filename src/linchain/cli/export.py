"""`linchain export`: an adapter as a plain LoRA, as a merged model, or as another method's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder, or run folder.", metavar="ADAPTER")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORM",
            help="lora: a plain PEFT LoRA. merged: a plain Transformers checkpoint. linchain: from a LoRA, or from the "
            "LinChain authors' own code. bone, miss: PEFT's MiSS bat as bone-col, and back. For GGUF: docs/serving.md.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Base model, instead of the one that the adapter names.", metavar="BASE"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in OUT.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="float32, bfloat16 or float16. Default: what was folded in float32, a merged model in the base model's.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", help="Compare logits on the lines of this file.", metavar="FILE")
    ] = None,
    chain_length: Annotated[
        int | None,
        typer.Option("--chain-length", help="With --to linchain: matrices that a LoRA gets (3).", metavar="N"),
    ] = None,
    mixer_biases: Annotated[
        bool,
        typer.Option(
            "--mixer-biases", help="With --to merged: keep the mixer biases of the authors' code as layer biases."
        ),
    ] = False,
    svd_rank: Annotated[
        int | None,
        typer.Option(
            "--svd-rank",
            help="With --to lora, for Bone and MiSS bat, which no LoRA equals: write the closest of this rank, and say how "
            "far it is.",
            metavar="R",
        ),
    ] = None,
) -> None:
    """Write ADAPTER in another form into OUT, if logits computed with it agree with ADAPTER's.

    Only what --svd-rank makes is written however far they are apart.
    """
    from rich.console import Console

    from linchain.quiet import quiet_libraries

    quiet_libraries()

    from linchain.convert import export as run
    from linchain.lab.trials import check_no_comparison

    check_no_comparison(adapter)
    done = run(
        adapter,
        out,
        to,
        model,
        overwrite=overwrite,
        dtype=dtype,
        text=text,
        chain_length=chain_length,
        mixer_biases=mixer_biases,
        svd_rank=svd_rank,
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"read: {done.source}", markup=False)
    if done.approximation is None:
        console.print(f"verified: {done.comparison}", markup=False)
    else:
        console.print(f"not the same model: {done.approximation}; {done.comparison.distance}", markup=False)
    if done.lost is not None:
        console.print(f"merged into dequantised weights: {done.lost}", markup=False)
    console.print(f"{done.description} in {done.out}", markup=False)
    for hint in done.hints:
        console.print(hint, markup=False)
