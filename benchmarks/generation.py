"""Generated tokens: adapters that are not merged, merged ones and the base model, in shuffled rounds on one core.

    python benchmarks/generation.py --hidden 1024 --dtype float32

Greedy, one sequence, from a LLaMA-shaped model of random weights. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import torch

from linchain.bench import machine
from linchain.bench.contestants import FLOOR, FLOOR_AGAIN, choose
from linchain.bench.timing import quartiles
from linchain.bench.workload import Workload, build_base

CONTESTANTS = ("linchain", "linchain-n0", "peft-lora")
MERGED = "linchain, merged"
PROMPT = 8


def models(workload: Workload) -> dict[str, Any]:
    """The base model twice, adapted ones, and a merged one; the merged one has weights of its own."""
    base = build_base(workload).eval()
    made = {contestant.name: contestant.build(base, workload).eval() for contestant in choose(CONTESTANTS, workload)}
    own_base = build_base(workload)
    (linchain,) = (contestant for contestant in choose(["linchain"], workload) if contestant.name == "linchain")
    made[MERGED] = linchain.build(own_base, workload).eval()
    made[MERGED].merge_adapter()
    return made


def seconds_per_token(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    """Of one greedy generation of so many tokens."""
    began = time.perf_counter()
    model.generate(input_ids=prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return (time.perf_counter() - began) / tokens


def measure(workload: Workload, rounds: int, tokens: int) -> dict[str, list[float]]:
    """Seconds of a token, by model and round."""
    made, order = models(workload), random.Random(workload.seed)
    prompt = torch.randint(workload.model_config().vocab_size, (1, PROMPT))
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 1):  # the first round warms up
        for name in order.sample(list(made), len(made)):
            found = seconds_per_token(made[name], prompt, tokens)
            if number:
                times[name].append(found)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024, help="width of the model")
    parser.add_argument("--layers", type=int, default=4, help="its decoder layers")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of its weights")
    parser.add_argument("--rounds", type=int, default=15, help="in which every model generates once")
    parser.add_argument("--tokens", type=int, default=16, help="that it generates then")
    arguments = parser.parse_args()
    workload = Workload(hidden=arguments.hidden, layers=arguments.layers, dtype=arguments.dtype)
    with machine.pinned(1):
        times = measure(workload, arguments.rounds, arguments.tokens)
    print("| model | ms a token | of the base | of PEFT's LoRA |\n|---|---|---|---|")
    for name, own in times.items():
        ratios = [quartiles([a / b for a, b in zip(own, times[rival], strict=True)]) for rival in (FLOOR, "peft-lora")]
        shown = [f"{ratio['median']:.3f} [{ratio['q1']:.3f}–{ratio['q3']:.3f}]" for ratio in ratios]
        title = {FLOOR: "base model", FLOOR_AGAIN: "base model, once more"}.get(name, name)
        print(f"| {title} | {1000 * quartiles(own)['median']:.1f} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
