"""Generated tokens: adapters that are not merged, merged ones and the base model, in shuffled rounds on one core.

    python benchmarks/generation.py --hidden 1024 --dtype float32

Greedy, one sequence, from a LLaMA-shaped model of random weights. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from linchain.bench import machine
from linchain.bench.contestants import FLOOR, FLOOR_AGAIN, choose
from linchain.bench.timing import of_rounds, quartiles, ratio, time_rounds
from linchain.bench.workload import Workload, build_base

CONTESTANTS = ("linchain", "linchain-n0", "peft-lora")
MERGED = "linchain, merged"
PROMPT = 8


@dataclass(frozen=True)
class Generator:
    """A model whose step is one greedy generation.

    Attributes:
        name: for the table.
        model: in evaluation.
        prompt: (1, PROMPT) tokens.
        tokens: how many are generated.
    """

    name: str
    model: Any
    prompt: torch.Tensor
    tokens: int

    def step(self) -> None:
        self.model.generate(
            input_ids=self.prompt, max_new_tokens=self.tokens, min_new_tokens=self.tokens, do_sample=False
        )


def models(workload: Workload) -> dict[str, Any]:
    """The base model twice, adapted ones, and a merged one; the merged one has weights of its own."""
    base = build_base(workload).eval()
    contestants = {contestant.name: contestant for contestant in choose(CONTESTANTS, workload)}
    made = {name: contestant.build(base, workload).eval() for name, contestant in contestants.items()}
    made[MERGED] = contestants["linchain"].build(build_base(workload), workload).eval()
    made[MERGED].merge_adapter()
    return made


def measure(workload: Workload, rounds: int, tokens: int) -> dict[str, list[list[float]]]:
    """Seconds of a generation, by model and round."""
    prompt = torch.randint(workload.model_config().vocab_size, (1, PROMPT))
    generators: list[Any] = [Generator(name, model, prompt, tokens) for name, model in models(workload).items()]
    for generator in generators:
        generator.step()  # warms up
    return time_rounds(generators, rounds, 1, False, workload.seed, lambda _: None)


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
        ratios = [ratio(own, times[rival]) for rival in (FLOOR, "peft-lora")]
        shown = [f"{found['median']:.3f} [{found['q1']:.3f}–{found['q3']:.3f}]" for found in ratios]
        title = {FLOOR: "base model", FLOOR_AGAIN: "base model, once more"}.get(name, name)
        print(
            f"| {title} | {1000 * quartiles(of_rounds(own))['median'] / arguments.tokens:.1f} | {' | '.join(shown)} |"
        )


if __name__ == "__main__":
    main()
