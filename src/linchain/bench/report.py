"""One table for people, with the lines above and below it that make its figures mean something."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linchain.bench.contestants import FLOOR, FLOOR_AGAIN

LORA = "peft-lora"
# who is to be compared with whom beside the floor and PEFT's default LoRA, which have columns of their own
RIVALS = {
    "linchain": ("peft-lora-autocast", "peft-lora-bf16", "naive-linchain"),
    "linchain-autocast": ("peft-lora-autocast",),
    "linchain-bf16": ("peft-lora-bf16",),
    "bone-col": ("peft-bat", "full"),
    "bone-plain": ("peft-miss",),
}


def report(result: dict[str, Any]) -> RenderableType:
    """The table of `linchain.bench.run.measure`'s result; at most 100 columns wide."""
    table = Table(box=None, pad_edge=False)
    table.add_column("contestant", no_wrap=True)
    for name in ("step, ms", "of the floor", "of PEFT LoRA"):
        table.add_column(name, justify="right")
    for name, figures in result["contestants"].items():
        table.add_row(
            name,
            f"{1000 * figures['seconds_per_step']['median']:.2f}",
            *(_of(figures, rival) for rival in (FLOOR, LORA)),
        )
    lines = [*_about(result), ""]
    below = [*_rivalries(result), *(f"{name}: {why}" for name, why in result["left_out"].items())]
    return Group(Text("\n".join(lines)), table, Text("\n".join(["", *below])))


def _about(result: dict[str, Any]) -> list[str]:
    """Machine, versions, workload, and how far apart two measurements of the same thing are."""
    about, workload = result["environment"], result["workload"]
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "peft", "transformers", "linchain"))
    shape = workload["model"] or "LLaMA"
    again = result["contestants"][FLOOR_AGAIN]["ratios"][FLOOR]
    return [
        f"{about['device']}, {about['threads']} threads; {versions}",
        *_products(about, workload),
        (
            f"{shape}, {workload['dtype']}, {workload['batch_size']} x {workload['sequence_length']} tokens, "
            f"targets {', '.join(workload['targets'])}"
        ),
        (
            f"r {workload['r']}, chain length {workload['chain_length']}, Bone's r {workload['bone_r']}; "
            f"dropout {workload['lora_dropout']:g}; fused AdamW"
        ),
        (
            f"{result['rounds']} shuffled rounds of {result['steps_per_round']} steps; median [quartiles] of the ratios within "
            "a round"
        ),
        f"A/A check: the floor against itself {_shown(again)}",
    ]


def _products(about: dict[str, Any], workload: dict[str, Any]) -> list[str]:
    """On a CPU that computes bfloat16 products by way of float32, say so: there float32 adapters are the cheap ones."""
    if workload["dtype"] != "bfloat16" or about.get("bfloat16_units") != []:
        return []
    rates = about["product_gflops"]
    return [
        (
            f"this CPU has no bfloat16 units: its products run at {rates['bfloat16']:.0f} GFLOP/s, float32's at "
            f"{rates['float32']:.0f}"
        )
    ]


def _rivalries(result: dict[str, Any]) -> list[str]:
    contestants = result["contestants"]
    lines = []
    for name, rivals in RIVALS.items():
        found = [
            f"{_of(contestants[name], rival)} of {rival}"
            for rival in rivals
            if rival in contestants and name in contestants
        ]
        if found:
            lines.append(f"{name}: {', '.join(found)}")
    return lines


def _of(figures: dict[str, Any], rival: str) -> str:
    found = figures["ratios"].get(rival)
    return "" if found is None else _shown(found)


def _shown(ratio: dict[str, float]) -> str:
    """
    >>> _shown({"median": 1.5, "q1": 1.25, "q3": 2})
    '1.50 [1.25–2.00]'
    """
    return f"{ratio['median']:.2f} [{ratio['q1']:.2f}–{ratio['q3']:.2f}]"
