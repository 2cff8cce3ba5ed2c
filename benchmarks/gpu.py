"""LLaMA-3-8B's shape on a GPU in bfloat16: skinny products, the chain's kernels, whole training steps. Ends by itself.

    python benchmarks/gpu.py runs/gpu                    # an H200: under ten minutes
    python benchmarks/gpu.py runs/gpu --dry-run          # the same code on a CPU with a tiny shape: its figures mean nothing

Writes OUT/gpu.json and OUT/gpu.md after each part. All contestants share the base's weights, 16 GB. Full fine-tuning is left
out: with AdamW's states it takes 80 GB.
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

# read when torch is imported: contestants of different sizes leave no gaps that a larger one does not fit into
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from rich.console import Console
from torch import Tensor, nn

from linchain import LinChainConfig
from linchain.bench import machine
from linchain.bench.contestants import FLOOR, choose
from linchain.bench.run import Pace, Plan, build, in_one_process
from linchain.bench.timing import quartiles
from linchain.bench.workload import Workload, draw_batch
from linchain.errors import LinchainError
from linchain.ops.triton_chain import SWITCH
from linchain.training.cost import mark, seconds

WORKLOAD = Workload(model="llama-3-8b", device="cuda", batch_size=16, sequence_length=256)
# (batch, sequence length), the one that most goals are about first
SHAPES = ((16, 256), (4, 256), (4, 2048))
CONTESTANTS = (
    *("linchain", "linchain-n0", "peft-lora", "peft-lora-autocast", "peft-lora-bf16", "naive-linchain"),
    *("bone-col", "bone-row", "peft-bat"),
)
# beside the rounds: three steps to warm up, one to count, one for the memory, three in a profile, and as long as two in which
# the profile is read
PACE = Pace(warm_ups=3, steps=5, least_rounds=1, most_rounds=4, seconds=0, beside=10)
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
LIMIT, LEAST = 500, 45
# of one kernel: a GPU that waits for each of them would be timed at waiting
CALLS = 20
NOTES = (
    f"products, chain: seconds of one call, {CALLS} of which are timed together",
    "products: the calls share their operands; small ones come from the L2 cache: gb_per_second may exceed the memory's",
)
TINY = Workload(hidden=64, intermediate=128, heads=2, vocab=64, batch_size=2, sequence_length=16, bone_r=16)


def timed(work: Callable[[], object], cuda: bool, repeats: int) -> dict[str, float]:
    """Seconds of one call: median and quartiles of `repeats` times `CALLS`, after as many to warm up."""
    marks = []
    for _ in range(repeats + 1):
        began = mark(cuda)
        for _ in range(CALLS):
            work()
        marks.append((began, mark(cuda)))
    return quartiles([taken / CALLS for taken in seconds(marks, cuda)[1:]])


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
    torch.autograd.grad(layer(x).sum(), [x, *(p for p in layer.parameters() if p.requires_grad)])


@contextmanager
def _triton(on: bool) -> Iterator[None]:
    """Within it our Triton kernels may serve, or not."""
    before = os.environ.get(SWITCH, "1")
    os.environ[SWITCH] = "1" if on else "0"
    try:
        yield
    finally:
        os.environ[SWITCH] = before


def steps(workload: Workload, dry: bool, results: dict[str, Any], keep: Callable[[], None], deadline: float) -> None:
    """`linchain bench` of each shape in which time is left, by the same trainees, into `results`.

    Raises:
        LinchainError: Where there is too little memory for the frozen model.
    """
    trainees = build(choose(CONTESTANTS, workload), workload)
    for trainee in trainees:
        _ = trainee.model  # is made here, lest the first shape pay for it
    for number, (batch, sequence) in enumerate(SHAPES):
        torch.cuda.empty_cache()
        name = f"{batch}x{sequence}"
        shape = workload if dry else replace(workload, batch_size=batch, sequence_length=sequence)
        left = deadline - time.monotonic()
        if left < max(LEAST, _forecast(results["steps"], shape.tokens)):
            results["not_measured"][name] = "the time is up"
        else:
            pace = replace(PACE, seconds=0 if dry else left / (len(SHAPES) - number))
            drawn = draw_batch(shape, shape.model_config())
            for trainee in trainees:
                trainee.batch = drawn
            try:
                found = in_one_process(trainees, shape, Plan(), Console(stderr=True), pace)
                results["steps"][name] = {"tokens": shape.tokens, **found}
            except LinchainError as error:
                results["not_measured"][name] = str(error)
        keep()


def _forecast(measured: dict[str, Any], tokens: int) -> float:
    """Seconds that a shape of so many tokens takes with one round, by the cheapest token so far."""
    of_a_token = (
        sum(figures["seconds_per_step"]["median"] for figures in result["contestants"].values()) / result["tokens"]
        for result in measured.values()
    )
    return min(of_a_token, default=0.0) * tokens * (PACE.beside + PACE.steps)


def page(results: dict[str, Any]) -> str:
    """The goals with what was found, in Markdown."""
    lines = [
        results["environment"]["device"],
        "",
        "| tokens | goal | at most | found | GPU busy | met |",
        "|---" * 6 + "|",
    ]
    for batch, sequence in SHAPES:
        shape = f"{batch}x{sequence}"
        if shape not in results["steps"]:
            why = results["not_measured"].get(shape)
            lines.append(f"| {shape} | | | not measured{f': {why}' if why else ''} | | |")
            continue
        goals = [("linchain", rival, most) for rival, most in GOALS.items() if rival == FLOOR or shape == "16x256"]
        for contestant, rival, most in [*goals, ("bone-col", "peft-bat", BONE_GOAL)]:
            cells = _found(results["steps"][shape], contestant, rival, most)
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
    deadline = time.monotonic() + LIMIT
    dry = arguments.dry_run
    workload = TINY if dry else WORKLOAD
    repeats = 2 if dry else 10
    arguments.out.mkdir(parents=True, exist_ok=True)
    about = {"environment": machine.describe(workload.device), "notes": NOTES}
    results: dict[str, Any] = {**about, "steps": {}, "not_measured": {}}

    def keep() -> None:
        (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (arguments.out / "gpu.md").write_text(page(results))

    results["products"] = [
        products(workload.device, tokens, *widths, workload.r, repeats)
        for tokens in ((8,) if dry else PRODUCT_TOKENS)
        for widths in (((16, 16),) if dry else WIDTHS)
    ]
    keep()
    results["chain"] = chain_cost(workload.device, 16 if dry else 4096, repeats)
    keep()
    try:
        steps(workload, dry, results, keep, deadline)
    except LinchainError as error:
        parser.exit(1, f"{error}\n")
    print(page(results))


if __name__ == "__main__":
    main()
