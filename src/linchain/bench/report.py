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
LEGEND = (
    "ms: median of a whole step; time / …: median [quartiles] of the ratios of times within a round",
    "MiB: what a step needs at its peak; weights, adapters and optimizer states come on top",
    "ops, KiB: operations and saved bytes that an adapted module adds on average, in forward and backward",
)
# fewer rounds have no quartiles to speak of; a floor this far from itself makes smaller differences meaningless
ENOUGH_ROUNDS, NOISY = 5, 0.05


def report(result: dict[str, Any]) -> RenderableType:
    """The table of `linchain.bench.run.measure`'s result; at most 100 columns wide."""
    contestants = result["contestants"]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("contestant", no_wrap=True)
    for name in ("ms", "time / floor", "time / PEFT LoRA", "MiB", "MiB / LoRA", "ops", "KiB"):
        table.add_column(name, justify="right", no_wrap=True)
    lora = contestants.get(LORA, {}).get("peak_bytes")
    for name, figures in contestants.items():
        table.add_row(
            name,
            f"{1000 * figures['seconds_per_step']['median']:.2f}",
            _of(figures, FLOOR),
            _of(figures, LORA),
            *_memory(figures.get("peak_bytes"), lora),
            *_added(figures["added_per_module"]),
        )
    above = "\n".join([*about(result), *LEGEND, ""])
    below = "\n".join(["", *_rivalries(contestants), *_remarks(result)])
    return Group(Text(above), table, Text(below))


def _memory(peak: int | None, lora: int | None) -> tuple[str, str]:
    if peak is None:
        return "", ""
    return f"{peak / 2**20:.1f}", f"{peak / lora:.2f}" if lora else ""


def _added(per_module: dict[str, float] | None) -> tuple[str, str]:
    if per_module is None:
        return "", ""
    return f"{per_module['operations']:.1f}", f"{per_module['saved_bytes'] / 1024:.0f}"


def about(result: dict[str, Any]) -> list[str]:
    """Machine, versions, workload, rounds, and how far apart two measurements of the same thing lie: a line each."""
    machine, workload = result["environment"], result["workload"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "peft", "transformers", "linchain")
    )
    shape = f"{workload['model'] or 'LLaMA'}, hidden {workload['hidden']}, layers {workload['layers']}"
    tokens = f"{workload['batch_size']} x {workload['sequence_length']} tokens"
    sizes = f"r {workload['r']}, chain length {workload['chain_length']}, Bone's r {workload['bone_r']}"
    again = result["contestants"][FLOOR_AGAIN]["ratios"][FLOOR]
    return [
        f"{machine['device']}, threads: {machine['threads']}",
        versions,
        *_products(machine, workload),
        *_gpu(machine, result["clocks_mhz"]),
        f"{shape}, {workload['dtype']}, {tokens}",
        f"{sizes}, dropout {workload['lora_dropout']:g}, fused AdamW",
        f"adapted: {', '.join(workload['targets'])}",
        f"{result['rounds']} shuffled rounds, steps in each: {result['steps_per_round']}; ratios are taken within a round",
        f"A/A check: the floor against itself {_shown(again)}",
    ]


def _remarks(result: dict[str, Any]) -> list[str]:
    waiting = [name for name, figures in result["contestants"].items() if figures.get("launch_bound")]
    remarks = [f"{name}: {why}" for name, why in result["left_out"].items()]
    if waiting:
        remarks.append(f"launch-bound: {', '.join(waiting)}")
    remarks += ["", *(f"{name:<18} {figures['title']}" for name, figures in result["contestants"].items())]
    return remarks + _doubts(result)


def _doubts(result: dict[str, Any]) -> list[str]:
    """What keeps these figures from meaning much, last, where it is read."""
    again = result["contestants"][FLOOR_AGAIN]["ratios"][FLOOR]
    apart = max(abs(again[name] - 1) for name in ("median", "q1", "q3"))
    doubts = []
    if result["rounds"] < ENOUGH_ROUNDS:
        doubts.append(f"only {result['rounds']} rounds: the quartiles mean nothing; take {ENOUGH_ROUNDS} or more")
    if apart > NOISY:
        doubts.append(f"the floor differs from itself by up to {apart:.0%}: so does anything else here, by noise alone")
    return ["", *doubts] if doubts else []


def _products(machine: dict[str, Any], workload: dict[str, Any]) -> list[str]:
    """Where a CPU has no instructions for bfloat16, float32 adapters are the cheap ones: nobody should be surprised."""
    if workload["dtype"] != "bfloat16" or not machine.get("bfloat16_emulated"):
        return []
    rates = machine["product_gflops"]
    return [
        f"this CPU only emulates bfloat16: products at {rates['bfloat16']:.0f} GFLOP/s, in float32 at {rates['float32']:.0f}",
        "LinChain's and Bone's layers multiply in float32 there, which may bring them below the floor",
    ]


def _gpu(machine: dict[str, Any], clocks: list[int | None]) -> list[str]:
    """What a GPU's figures depend on beside the workload."""
    if not clocks:
        return []
    attention = ", ".join(name for name, enabled in machine["attention"].items() if enabled)
    shown = " and ".join("unknown" if clock is None else f"{clock} MHz" for clock in clocks)
    return [f"TF32 {'on' if machine['tf32'] else 'off'}; attention by {attention}; clock before and after: {shown}"]


def _rivalries(contestants: dict[str, Any]) -> list[str]:
    pairs = [(name, rival) for name, rivals in RIVALS.items() for rival in rivals]
    return [
        f"time {name} / {rival}: {_of(contestants[name], rival)}"
        for name, rival in pairs
        if name in contestants and rival in contestants
    ]


def _of(figures: dict[str, Any], rival: str) -> str:
    found = figures["ratios"].get(rival)
    return "" if found is None else _shown(found)


def _shown(ratio: dict[str, float]) -> str:
    """
    >>> _shown({"median": 1.5, "q1": 1.25, "q3": 2})
    '1.50 [1.25–2.00]'
    """
    return f"{ratio['median']:.2f} [{ratio['q1']:.2f}–{ratio['q3']:.2f}]"
