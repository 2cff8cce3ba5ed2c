"""Every method of the catalogue on one model, one text and one number of steps: test loss, parameters, memory, time.

    python benchmarks/catalogue.py runs/catalogue --jobs 2

Two parts. *Search*: each method at each learning rate of one grid, the same for all; the rate is chosen by the loss on
training records held back, and the test records are looked at once, at that rate. *Cost*: each method again for a few
steps, alone on the machine, in a process of its own, in shuffled rounds. What was run already is not run again.

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
COST_STEPS = 20
COST_ROUNDS = 3
# stories260k is so narrow that blocks of 4 are the largest that fit all of its weights
OWN_OPTIONS = {"bone-col": {"r": 4}, "bone-row": {"r": 4}, "miss-bat": {"r": 4}, "miss": {"r": 16}}
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


def configuration(method: str, rate: float, out: Path, shared: Path, cost: bool = False) -> dict[str, Any]:
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
            "eval_steps": steps,
            "save_steps": steps,
        },
        "evaluation": {"metric": "loss", "baseline": False},
        "output": str(out),
    }


def run(config: dict[str, Any]) -> dict[str, Any]:
    """The run's result.json, from disk where it is complete; `{"error": …}` where it cannot be run."""
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
    return json.loads(result.read_text()) | {"validation": validation[-1] if validation else None}


def search(names: list[str], out: Path, shared: Path, jobs: int) -> dict[str, dict[float, dict[str, Any]]]:
    """The result of every method at every rate."""
    from rich.progress import track

    found: dict[str, dict[float, dict[str, Any]]] = {name: {} for name in names}
    with ProcessPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(run, configuration(name, rate, out / f"{name}-{rate:g}", shared)): (name, rate)
            for name in names
            for rate in GRID
        }
        for future in track(as_completed(futures), "search", total=len(futures)):
            name, rate = futures[future]
            found[name][rate] = future.result()
    return found


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


def table(found: dict[str, dict[float, dict[str, Any]]], costs: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, best test loss first; an asterisk where the best rate lies at the edge of the grid."""
    rows = []
    lora = statistics.median(costs["lora"]["seconds_per_step"]) if "lora" in costs else None
    for name, by_rate in found.items():
        runs = {rate: result for rate, result in by_rate.items() if "error" not in result}
        if not runs:
            rows.append(
                (
                    float("inf"),
                    f"| {name} | failed: {next(iter(by_rate.values()))['error'].splitlines()[0]} | | | | | |",
                )
            )
            continue
        rate = min(runs, key=lambda at: runs[at]["validation"])
        loss = next(score for score in runs[rate]["scores"]["after"] if score["name"] == "loss")
        edge = "*" if rate in (min(GRID), max(GRID)) else ""
        seconds, memory = costs[name]["seconds_per_step"], costs[name]["memory_bytes"]
        time = f"{1000 * statistics.median(seconds):.0f} ms"
        if lora is not None:
            time += f" ({statistics.median(seconds) / lora:.2f})"
        cells = (
            name,
            f"{rate:g}{edge}",
            f"{loss['value']:.3f}",
            f"{loss['low']:.3f} to {loss['high']:.3f}",
            f"{runs[rate]['parameters']['trainable']:,}",
            f"{statistics.median(memory) / 2**20:.0f} MiB",
            time,
        )
        rows.append((loss["value"], f"| {' | '.join(cells)} |"))
    head = "| method | learning rate | test loss | 95 % | trainable | peak memory of a step | time of a step (over LoRA's) |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *(row for _, row in sorted(rows, key=lambda row: row[0]))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time in the search, each on one core")
    parser.add_argument("--methods", nargs="+", help="only these")
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

    names = [get(name).name for name in arguments.methods] if arguments.methods else methods.names()
    found = search(names, arguments.out, arguments.shared, arguments.jobs)
    costs = cost(names, arguments.out, arguments.shared)
    machine = {"machine": platform.platform(), "processor": platform.processor(), "torch": torch.__version__}
    report = {"machine": machine, "grid": GRID, "steps": STEPS, "search": found, "cost": costs}
    (arguments.out / "catalogue.json").write_text(json.dumps(report, indent=1) + "\n")
    text = table(found, costs)
    (arguments.out / "catalogue.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
