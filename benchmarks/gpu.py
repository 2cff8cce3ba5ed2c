"""LLaMA-3-8B's shape on a GPU in bfloat16: skinny products, the chain's kernels, whole training steps. Ends by itself.

    python benchmarks/gpu.py runs/gpu                    # an H200: under ten minutes
    python benchmarks/gpu.py runs/gpu --dry-run          # the same code on a CPU with a tiny shape: its figures mean nothing

Writes OUT/gpu.json after each part, and OUT/gpu.md at the end. All contestants share the base's weights, 16 GB. Full
fine-tuning is left out: with AdamW's states it takes 80 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from linchain import LinChainConfig
from linchain.bench import machine
from linchain.bench.contestants import FLOOR, FULL, choose
from linchain.bench.run import PACES, Pace, Plan, build, in_one_process
from linchain.bench.step import Trainee
from linchain.bench.timing import quartiles
from linchain.bench.workload import Workload, draw_batch
from linchain.ops.triton_chain import SWITCH
from linchain.training.cost import mark, seconds

WORKLOAD = Workload(model="llama-3-8b", device="cuda", batch_size=16, sequence_length=256)
# (batch, sequence length), the one that most goals are about first
SHAPES = ((16, 256), (4, 256), (4, 2048))
GOALS = {
    FLOOR: 1.10,
    "peft-lora": 0.85,
    "peft-lora-autocast": 0.90,
    "peft-lora-bf16": 0.97,
}
BONE_GOAL = 0.3
PRODUCT_TOKENS = (1024, 4096, 8192)
WIDTHS = ((4096, 4096), (4096, 14336), (14336, 4096))  # (in, out): q and k, up, down
# seconds for everything, and those that a shape needs at least
LIMIT, LEAST = 540, 60
TINY = Workload(hidden=64, intermediate=128, heads=2, vocab=64, batch_size=2, sequence_length=16, bone_r=16)


def timed(work: Callable[[], object], cuda: bool, repeats: int) -> dict[str, float]:
    """Seconds of one call: median and quartiles of `repeats`, after three."""
    marks = []
    for _ in range(repeats + 3):
        began = mark(cuda)
        work()
        marks.append((began, mark(cuda)))
    return quartiles(seconds(marks, cuda)[3:])


def products(device: str, tokens: int, width_in: int, width_out: int, r: int, repeats: int) -> dict[str, Any]:
    """The six products of a low-rank update and the base's own, as the library computes them in bfloat16."""
    like: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    x, g = torch.randn(tokens, width_in, **like), torch.randn(tokens, width_out, **like)
    a, b = torch.randn(r, width_in, **like), torch.randn(width_out, r, **like)
    weight, h = torch.randn(width_out, width_in, **like), torch.randn(tokens, r, **like)
    pairs = {
        "x W'": (x, weight.T),
        "h = x A'": (x, a.T),
        "y += h B'": (h, b.T),
        "dh = g B": (g, b),
        "dB' = h' g": (h.T, g),
        "dA = dh' x": (h.T, x),
        "dx += dh A": (h, a),
    }
    rates = {}
    for name, (left, right) in pairs.items():
        out = torch.zeros(left.shape[0], right.shape[1], **like)
        adds = "+=" in name
        work = partial(out.addmm_, left, right) if adds else partial(torch.mm, left, right)
        found = timed(work, device == "cuda", repeats)
        moved = 2 * (left.numel() + right.numel() + out.numel() * (2 if adds else 1))
        rates[name] = {
            "seconds": found,
            "tflops": 2 * left.shape[0] * left.shape[1] * right.shape[1] / found["median"] / 1e12,
            "gb_per_second": moved / found["median"] / 1e9,
        }
    return {"tokens": tokens, "in": width_in, "out": width_out, "r": r, "products": rates}


def chain_cost(device: str, width: int, repeats: int) -> list[dict[str, Any]]:
    """Forward and backward of one adapted layer on 16 tokens, where the products are next to nothing: kernels or torch."""
    from peft import get_peft_model

    cuda = device == "cuda"
    found = []
    for length in (0, 1, 3, 8):
        base = nn.Sequential(nn.Linear(width, width, bias=False)).to(device, torch.bfloat16)
        layer = get_peft_model(base, LinChainConfig(r=16, chain_length=length, target_modules=["0"]))
        x = torch.randn(16, width, device=device, dtype=torch.bfloat16, requires_grad=True)
        for kernels in (True, False):
            with _triton(kernels):
                cost = timed(partial(_forward_backward, layer, x), cuda, repeats)
            found.append({"chain_length": length, "triton": kernels, "seconds": cost})
    return found


def _forward_backward(layer: Any, x: Tensor) -> None:
    layer(x).sum().backward()


@contextmanager
def _triton(on: bool) -> Iterator[None]:
    """Within it our Triton kernels may serve, or not."""
    before = os.environ.get(SWITCH, "1")
    os.environ[SWITCH] = "1" if on else "0"
    try:
        yield
    finally:
        os.environ[SWITCH] = before


def steps(trainees: list[Trainee], workload: Workload, pace: Pace, console: Console) -> dict[str, Any]:
    """`linchain bench` of one batch shape, by the trainees of another."""
    batch = draw_batch(workload, workload.model_config())
    for trainee in trainees:
        trainee.batch = batch
    return in_one_process(trainees, workload, Plan(), console, pace)


def page(results: dict[str, Any]) -> str:
    """The goals with what was found, in Markdown."""
    lines = [
        results["environment"]["device"],
        "",
        "| tokens | goal | at most | found | GPU busy | met |",
        "|---" * 6 + "|",
    ]
    for shape, result in results["steps"].items():
        goals = [("linchain", rival, most) for rival, most in GOALS.items() if rival == FLOOR or shape == "16x256"]
        for contestant, rival, most in [*goals, ("bone-col", "peft-bat", BONE_GOAL)]:
            cells = _found(result, contestant, rival, most)
            lines.append(f"| {shape} | {contestant} / {rival} | {most:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _found(result: dict[str, Any], contestant: str, rival: str, most: float) -> tuple[str, str, str]:
    """The ratio with its quartiles, the share of the contestant's step that the GPU is busy, whether the goal is met."""
    for name in (contestant, rival):
        if name in result["left_out"]:
            return f"{name}: {result['left_out'][name]}", "", ""
    figures = result["contestants"][contestant]
    ratio = figures["ratios"][rival]
    busy = f"{figures['busy_share']:.0%}" if "busy_share" in figures else ""
    return (
        f"{ratio['median']:.3f} [{ratio['q1']:.3f}–{ratio['q3']:.3f}]",
        busy + (" (launch-bound)" if figures.get("launch_bound") else ""),
        "yes" if ratio["median"] <= most else "**no**",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape on the CPU")
    arguments = parser.parse_args()
    began = time.monotonic()
    dry, console = arguments.dry_run, Console(stderr=True)
    workload = TINY if dry else WORKLOAD
    repeats = 2 if dry else 50
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"environment": machine.describe(workload.device), "steps": {}}

    def keep() -> None:
        (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")

    results["products"] = [
        products(workload.device, tokens, *widths, workload.r, repeats)
        for tokens in ((8,) if dry else PRODUCT_TOKENS)
        for widths in (((16, 16),) if dry else WIDTHS)
    ]
    keep()
    results["chain"] = chain_cost(workload.device, 16 if dry else 4096, repeats)
    keep()
    trainees = build([c for c in choose(None, workload) if c.name != FULL], workload)
    for number, (batch, sequence) in enumerate(SHAPES):
        left = LIMIT - (time.monotonic() - began)
        if left < LEAST:
            console.print(f"{batch}x{sequence}: not measured, the time is up")
            continue
        # warming up, profiles and memory take about as long as two rounds
        pace = replace(PACES[workload.device], least_rounds=1, most_rounds=4, seconds=left / (len(SHAPES) - number) / 2)
        shape = workload if dry else replace(workload, batch_size=batch, sequence_length=sequence)
        results["steps"][f"{batch}x{sequence}"] = steps(trainees, shape, pace, console)
        keep()
    text = page(results)
    (arguments.out / "gpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
