"""Kills training, comparison and export with SIGKILL at random moments, and holds what comes of them against undisturbed ones.

    python -m tests.reliability.kills --kills 200 --seed 1 --folder kills

Each attempt is a process forked from this one, which has the libraries loaded: a kill falls on work, not on imports. A folder
is killed several times, half of them while a file is being written, and what others may read by then must be whole each
time. Then it is let end; what it holds must be, byte for byte, what an undisturbed one holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from linchain.convert.export import export
from linchain.files import PART, read_json, read_jsonl, sha256
from linchain.lab.compare import compare
from linchain.lab.plan import build_plan
from linchain.lab.trials import Comparison
from linchain.training.checkpoints import damage
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder

KILLS_A_FOLDER = 5
TIMED = ("seconds", "resumed_from_step", "cost")  # of result.json: what no two runs share
Outcome = dict[str, object]


@dataclass(frozen=True)
class Subject:
    """What is killed: `go` starts it in a folder, or continues it there; `outcome` is what must be equal in the end.

    `whole` says, right after a kill, whether what others may read by then is; it is told what an undisturbed one ends in.
    """

    name: str
    go: Callable[[Path], object]
    outcome: Callable[[Path], Outcome]
    whole: Callable[[Path, Outcome], bool]


@dataclass
class Tally:
    """What happened: kills by their victim, folders that were killed, attempts that ended before their kill."""

    kills: Counter[str] = field(default_factory=Counter)
    while_writing: int = 0
    folders: int = 0
    different: list[str] = field(default_factory=list)


def training(method: str) -> Subject:
    """Twelve steps on the starter, a checkpoint every two, validation, scores before and after."""

    def config(folder: Path) -> object:
        return build_config(
            {
                "model": "starter",
                "method": {"name": method, "r": 8} | ({"lora_dropout": 0.1} if method == "linchain" else {}),
                "data": {"train": "starter:two_step", "limit": 96, "validation_size": 16, "test": "starter:two_step"},
                "training": {
                    "max_steps": 12, "batch_size": 4, "learning_rate": 5e-3, "save_steps": 2, "eval_steps": 4,
                    "logging_steps": 5, "diagnostics_steps": 6,
                },
                "evaluation": {"limit": 16, "max_new_tokens": 8},
                "output": str(folder),
            }
        )  # fmt: skip

    def go(folder: Path) -> None:
        state = RunFolder(folder).state
        if state != "complete":
            train(config(folder), Start(resume=state == "interrupted"))  # type: ignore[arg-type]

    def outcome(folder: Path) -> Outcome:
        run = RunFolder(folder)
        result = {key: value for key, value in read_json(run.result).items() if key not in TIMED}
        files = [*run.adapter.iterdir(), *run.predictions.iterdir(), run.diagnostics]
        return {"result": result, "metrics": read_jsonl(run.metrics)} | {file.name: sha256(file) for file in files}

    return Subject(f"train {method}", go, outcome, lambda folder, _: _whole_run(folder))


def _whole_run(folder: Path) -> bool:
    """Whether checkpoints, adapter and result of a run, those that are there, can be read."""
    run = RunFolder(folder)
    if run.result.exists():
        read_json(run.result)
    if run.adapter.exists():
        load_file(run.adapter / "adapter_model.safetensors")
        read_json(run.adapter / "adapter_config.json")
        AutoTokenizer.from_pretrained(run.adapter)
    return not any(map(damage, run.checkpoints.newest()))


def comparison() -> Subject:
    """Two methods, two learning rates, a seed: six runs of six steps, two at a time."""
    values = {
        "model": "starter",
        "methods": ["lora", "linchain"],
        "learning_rates": [1e-3, 5e-3],
        "seeds": 1,
        "threads": 1,
        "options": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "data": {"train": "starter:two_step", "limit": 64, "validation_size": 16, "test": "starter:two_step"},
        "training": {"max_steps": 6, "batch_size": 4, "save_steps": 2},
        "evaluation": {"limit": 16, "max_new_tokens": 8},
        "cost": {"rounds": 0},
    }

    def go(folder: Path) -> None:
        compare(Comparison(build_plan(values | {"output": str(folder)})))

    def whole(folder: Path, _: Outcome) -> bool:
        return all(_whole_run(run) for run in folder.glob("runs/*/*"))

    return Subject("compare", go, lambda folder: {"summary.json": sha256(folder / "summary.json")}, whole)


def exported(adapter: Path, to: str) -> Subject:
    """The export of a trained adapter over an earlier export of it."""

    def go(folder: Path) -> None:
        export(adapter, folder / "out", to, overwrite=True)

    def outcome(folder: Path) -> Outcome:
        return {file.name: sha256(file) for file in (folder / "out").iterdir()}

    def whole(folder: Path, undisturbed: Outcome) -> bool:
        return not (folder / "out").exists() or outcome(folder) == undisturbed

    return Subject(f"export --to {to}", go, outcome, whole)


def put_to_the_test(subject: Subject, folder: Path, kills: int, chance: random.Random) -> Tally:
    """Kills `subject` `kills` times, in new folders within `folder`."""
    tally = Tally()
    began = time.perf_counter()
    assert _attempt(subject, folder / "undisturbed", None, tally, chance), f"{subject.name} does not work undisturbed"
    lasts = time.perf_counter() - began
    expected = subject.outcome(folder / "undisturbed")
    while sum(tally.kills.values()) < kills:
        tally.folders += 1
        disturbed = folder / f"disturbed-{tally.folders}"
        ended = False
        for _ in range(KILLS_A_FOLDER):
            ended = _attempt(subject, disturbed, chance.uniform(0, lasts), tally, chance)
            if not subject.whole(disturbed, expected):
                tally.different.append(f"{disturbed}: not whole after a kill")
            if ended or sum(tally.kills.values()) == kills:
                break
        if not ended:
            _attempt(subject, disturbed, None, tally, chance)
        if subject.outcome(disturbed) != expected:
            tally.different.append(str(disturbed))
        else:
            shutil.rmtree(disturbed)
    return tally


def _attempt(subject: Subject, folder: Path, kill_after: float | None, tally: Tally, chance: random.Random) -> bool:
    """Starts or continues in a process of its own; True where that came to its end. Raises where it failed by itself."""
    process = _forked(subject, folder)
    if kill_after is not None:
        time.sleep(kill_after)
        if chance.random() < 0.5:
            while process.status() != psutil.STATUS_ZOMBIE and not any(folder.rglob(f"*{PART}")):
                time.sleep(0.001)
        if process.status() != psutil.STATUS_ZOMBIE:
            # runs of a comparison are forked from a server, which is the process's child
            runs = [run for server in process.children() for run in server.children()]
            victim = chance.choice([process, *runs])
            victim.kill()
            if victim is process:
                _wait(process)
                tally.kills["whole"] += 1
                tally.while_writing += any(folder.rglob(f"*{PART}"))
                return False
            tally.kills["one of its runs"] += 1
    status = _wait(process)
    if status != 0:
        raise AssertionError(f"{subject.name} ended with {status}: {(folder.with_suffix('.txt')).read_text()}")
    return True


def _forked(subject: Subject, folder: Path) -> psutil.Process:
    folder.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return psutil.Process(child)
    try:
        with folder.with_suffix(".txt").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        subject.go(folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _wait(process: psutil.Process) -> int:
    _, status = os.waitpid(process.pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        default=["train", "compare", "export"],
        help="of these; exports are of what train has left",
    )
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        trained = folder / "train-linchain" / "undisturbed"  # there by the time that it is exported
        subjects = [
            (training("linchain"), 0.35), (training("bone-row"), 0.2), (comparison(), 0.2),
            (exported(trained, "lora"), 0.15), (exported(trained, "merged"), 0.1),
        ]  # fmt: skip
        for subject, share in subjects:
            if subject.name.split()[0] not in asked.only:
                continue
            tally = put_to_the_test(
                subject, folder / subject.name.replace(" ", "-"), round(share * asked.kills), chance
            )
            print(
                json.dumps(
                    {
                        "subject": subject.name, "kills": sum(tally.kills.values()), **tally.kills,
                        "while a file or folder was being written": tally.while_writing, "folders": tally.folders,
                        "different": tally.different,
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
