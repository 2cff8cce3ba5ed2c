"""Every method of the catalogue on one model, one text and one number of steps: test loss, parameters, memory, time.

    python benchmarks/catalogue.py runs/catalogue --jobs 2

Three parts. *Search*: each method at each learning rate of one grid, the same for all; the rate is chosen by the loss on
training records held back. *Seeds*: the chosen rate once more with other seeds (adapter, order of data). *Cost*: each method
for a few steps, alone on the machine, in a process of its own, in shuffled rounds. What was run already is not run again.

Writes OUT/catalogue.json and OUT/catalogue.md, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
STEPS = 200
SEEDS = (42, 1, 2)  # the search has the first
COST_STEPS = 20
COST_ROUNDS = 3
# stories260k is so narrow that blocks of 4 are the largest that fit all of its weights
OWN_OPTIONS = {"bone-col": {"r": 4}, "bone-row": {"r": 4}, "miss-bat": {"r": 4}, "miss": {"r": 16}}
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


Results = dict[str, dict[float, dict[str, Any]]]


def configuration(
    method: str, rate: float, out: Path, shared: Path, seed: int = SEEDS[0], cost: bool = False
) -> dict[str, Any]:
    """A run in the words of `linchain train`."""
    from linchain import methods

    options = {"target_modules": TARGETS, **OWN_OPTIONS.get(method, {})} if methods.get(method).options else {}
    steps = COST_STEPS if cost else STEPS
    data: dict[str, Any] = {"train": f"{shared}/data/lm/wikitext.train.jsonl", "max_length": 128}
    if not cost:
        data |= {"validation_size": 100, "test": f"{shared}/data/lm/wikitext.test.jsonl"}
    return {
        "model": f"{shared}/models/stories260k",
        "method": {"name": method, **options},
        "data": data,
        "training": {
            "max_steps": steps,
            "learning_rate": rate,
            "batch_size": 8,
            "warmup_steps": 10,
            "seed": seed,
            "eval_steps": steps,
            "save_steps": steps,
        },
        "evaluation": {"metric": "loss", "baseline": False},
        "output": str(out),
    }


def run(config: dict[str, Any]) -> dict[str, Any]:
    """The run's result.json, from disk where it is complete; `{"error": …}` where it failed or diverged."""
    import torch

    from linchain.errors import LinchainError
    from linchain.training.load_config import build_config
    from linchain.training.run import Start, train

    torch.set_num_threads(1)
    result = Path(config["output"]) / "result.json"
    if not result.is_file():
        try:
            train(build_config(config), Start(overwrite=Path(config["output"]).exists()))
        except LinchainError as error:
            return {"error": str(error)}
    metrics = (Path(config["output"]) / "metrics.jsonl").read_text().splitlines()
    validation = [row["eval_loss"] for row in map(json.loads, metrics) if "eval_loss" in row]
    found = json.loads(result.read_text()) | {"validation": validation[-1] if validation else None}
    predictions = Path(config["output"]) / "predictions" / "after.jsonl"
    if predictions.is_file():
        rows = [json.loads(line) for line in predictions.read_text().splitlines()]
        found["records"] = [[row["loss"] * row["tokens"], row["tokens"]] for row in rows]
    return found


def run_all(configs: dict[Any, dict[str, Any]], jobs: int, title: str) -> dict[Any, dict[str, Any]]:
    """The result of every configuration, by its key; `jobs` at a time."""
    from rich.progress import track

    with ProcessPoolExecutor(jobs) as pool:
        futures = {pool.submit(run, config): key for key, config in configs.items()}
        return {futures[f]: f.result() for f in track(as_completed(futures), title, total=len(futures))}


def search(names: list[str], out: Path, shared: Path, jobs: int) -> Results:
    """The result of every method at every rate."""
    pairs = [(name, rate) for name in names for rate in GRID]
    found = run_all({(n, r): configuration(n, r, out / f"{n}-{r:g}", shared) for n, r in pairs}, jobs, "search")
    return {name: {rate: found[name, rate] for rate in GRID} for name in names}


def chosen_rates(found: Results) -> dict[str, float]:
    """The rate with the lowest validation loss of each method; methods that failed at every rate are left out."""
    rates = {}
    for name, by_rate in found.items():
        losses = {rate: result["validation"] for rate, result in by_rate.items() if "error" not in result}
        if losses:
            rates[name] = min(losses, key=lambda rate: losses[rate])
    return rates


def seeds(rates: dict[str, float], found: Results, out: Path, shared: Path, jobs: int) -> dict[str, list[Any]]:
    """The results of every method at its chosen rate, one for each seed."""
    configs = {
        (name, seed): configuration(name, rate, out / f"{name}-{rate:g}-seed{seed}", shared, seed)
        for name, rate in rates.items()
        for seed in SEEDS[1:]
    }
    more = run_all(configs, jobs, "seeds")
    return {name: [found[name][rate], *(more[name, seed] for seed in SEEDS[1:])] for name, rate in rates.items()}


def cost(names: list[str], out: Path, shared: Path) -> dict[str, dict[str, Any]]:
    """Median seconds a step, and peak memory above the process before it, over rounds of fresh processes."""
    from rich.progress import track

    rounds = [(name, index) for index in range(COST_ROUNDS) for name in random.Random(index).sample(names, len(names))]
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name, index in track(rounds, "cost"):
        config = configuration(name, 1e-3, out / "cost" / f"{name}-{index}", shared, cost=True)
        command = [sys.executable, __file__, "--one", json.dumps(config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        measured[name].append(json.loads(done.stdout.splitlines()[-1])["cost"])
    return {
        name: {
            "seconds_per_step": [one["seconds_per_step"] for one in found],
            "memory_bytes": [one["peak_memory_bytes"] - one["memory_before_bytes"] for one in found],
        }
        for name, found in measured.items()
    }


def test_losses(results: list[Any]) -> Any:
    """Summed loss and tokens of each test record, for each seed: an array (seeds, records, 2)."""
    import numpy as np

    return np.array([result["records"] for result in results])


def over_lora(losses: Any, lora: Any) -> str:
    """Mean loss over seeds minus LoRA's, with its 95 % interval by bootstrap over test records (paired)."""
    from linchain.evaluation.scores import bootstrap

    gap = (losses[..., 0] - lora[..., 0]).mean(0)
    tokens = losses[0, :, 1]
    low, high = bootstrap(lambda records: float(gap[records].sum() / tokens[records].sum()), len(gap))
    return f"{gap.sum() / tokens.sum():+.3f} [{low:+.3f}, {high:+.3f}]"


def table(rates: dict[str, float], by_seed: dict[str, list[Any]], costs: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, best test loss first; an asterisk where the chosen rate lies at the edge of the grid."""
    rows = []
    lora = test_losses(by_seed["lora"])
    for name, results in by_seed.items():
        losses = test_losses(results)
        means = losses[..., 0].sum(1) / losses[..., 1].sum(1)
        times = sorted(1000 * seconds for seconds in costs[name]["seconds_per_step"])
        cells = (
            name,
            f"{rates[name]:g}{'*' if rates[name] in (min(GRID), max(GRID)) else ''}",
            f"{means.mean():.3f} ({means.min():.3f} to {means.max():.3f})",
            over_lora(losses, lora),
            f"{results[0]['parameters']['trainable']:,}",
            f"{statistics.median(costs[name]['memory_bytes']) / 2**20:.0f} MiB",
            f"{statistics.median(times):.0f} ({times[0]:.0f} to {times[-1]:.0f}) ms",
        )
        rows.append((means.mean(), f"| {' | '.join(cells)} |"))
    head = (
        f"| method | learning rate | test loss ({len(SEEDS)} seeds) | minus LoRA's | trainable | memory of a step | "
        "time of a step |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|", *(row for _, row in sorted(rows, key=lambda row: row[0]))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time in the search, each on one core")
    parser.add_argument("--methods", nargs="+", help="only these, and LoRA")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared", help="data and model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(json.loads(arguments.one))))
        return
    if arguments.out is None:
        parser.error("name the folder of the runs")
    import torch

    from linchain import methods
    from linchain.methods import get

    names = [get(name).name for name in ["lora", *(arguments.methods or methods.names())]]
    names = list(dict.fromkeys(names))
    found = search(names, arguments.out, arguments.shared, arguments.jobs)
    rates = chosen_rates(found)
    by_seed = seeds(rates, found, arguments.out, arguments.shared, arguments.jobs)
    costs = cost(names, arguments.out, arguments.shared)
    machine = {"machine": platform.platform(), "processor": platform.processor(), "torch": torch.__version__}
    report = {"machine": machine, "grid": GRID, "steps": STEPS, "search": found, "seeds": by_seed, "cost": costs}
    (arguments.out / "catalogue.json").write_text(json.dumps(report) + "\n")
    text = table(rates, by_seed, costs)
    (arguments.out / "catalogue.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
