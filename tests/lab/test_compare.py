"""A comparison from its plan to its summary: runs, failures, growing, and being killed."""

import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import linchain.lab.compare
from linchain.cli.app import app
from linchain.errors import LinchainError
from linchain.files import write_json, write_text
from linchain.lab.compare import COST_MACHINE, check_folder, compare, write_summary
from linchain.lab.describe import describe
from linchain.lab.executor import MachineLostError
from linchain.lab.plan import build_plan
from linchain.lab.trials import Comparison, check_no_comparison
from linchain.training.load_config import build_config, dump_config
from tests.lab import synthetic


def values(tiny_model, output, **changes):
    data = {"train": "starter:two_step", "validation": "starter:two_step", "test": "starter:two_step", "limit": 24}
    return {
        "model": str(tiny_model),
        "methods": ["lora", {"name": "linchain", "chain_length": 2}],
        "options": {"target_modules": ["q_proj", "v_proj"], "r": 4},
        "learning_rates": [1e-3, 1e-2],
        "seeds": 2,
        "threads": 1,
        "cost": {"steps": 2, "rounds": 1},
        "data": data,
        "training": {"max_steps": 4, "batch_size": 4, "logging_steps": 2, "save_steps": 2, "eval_steps": 4},
        "evaluation": {"metric": "loss", "limit": 8},
        "output": str(output),
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    comparison = Comparison(build_plan(values(tiny_model, tmp_path_factory.mktemp("comparison") / "out")))
    return compare(comparison)


def test_every_run_of_the_plan_is_done(finished):
    trials = finished.trials
    assert [sum(trial.stage == stage for trial in trials) for stage in ("search", "final", "cost")] == [4, 4, 2]
    assert {trial.state for trial in trials} == {"done"}
    for trial in trials:
        assert not trial.files.checkpoints.folder.exists()
        assert trial.files.adapter.exists() == (trial.stage == "final")
    finals = [trial for trial in trials if trial.stage == "final"]
    assert all(len(trial.predictions("test")) == 8 for trial in finals)
    # what a seed moves shows in the result
    assert finals[0].scores("test") != next(one for one in finals[1:] if one.contestant == "lora").scores("test")


def test_search_runs_never_see_test_data(finished):
    for trial in finished.search_trials():
        assert "test" not in json.loads(trial.files.environment.read_text())["data"]
        assert not (trial.files.predictions / "after.jsonl").exists()


def test_the_summary_holds_no_times(finished):
    summary = json.loads(finished.summary.read_text())
    assert {key for cost in summary["costs"] for key in cost} == {
        "contestant",
        "budget",
        "trainable",
        "total",
        "source",
    }
    assert "measured" not in summary
    assert [line["contestant"] for line in summary["tables"][0]["lines"]]


def test_a_finished_comparison_runs_nothing_again(finished):
    before = {trial.folder: trial.files.result.stat().st_mtime_ns for trial in finished.trials}
    summary = finished.summary.read_bytes()
    compare(Comparison.load(finished.folder))
    assert {trial.folder: trial.files.result.stat().st_mtime_ns for trial in finished.trials} == before
    assert finished.summary.read_bytes() == summary


def test_a_failed_run_is_a_row(tiny_model, tmp_path):
    # a rate at which the weights are no numbers after a step
    plan = values(tiny_model, tmp_path / "out", learning_rates=[1e-3, 1e30], seeds=1, cost={"rounds": 0})
    comparison = compare(Comparison(build_plan(plan)))
    failed = {(trial.contestant, trial.learning_rate): trial.error for trial in comparison.trials if trial.error}
    assert set(failed) == {("lora", 1e30), ("linchain", 1e30)}
    assert "holds values that are no numbers at step" in failed["lora", 1e30]
    summary = json.loads(comparison.summary.read_text())
    assert len(summary["failures"]) == 2
    lines = summary["tables"][0]["lines"]
    assert [line["learning_rate"] for line in lines] == [1e-3, 1e-3]


def test_a_plan_may_grow_but_not_change(tiny_model, finished):
    grown = values(tiny_model, finished.folder, seeds=3, learning_rates=[1e-3, 1e-2, 3e-3])
    check_folder(Comparison(build_plan(grown)))
    changed = values(tiny_model, finished.folder)
    changed["training"]["batch_size"] = 8
    with pytest.raises(LinchainError, match=r"training\.batch_size: 4 is now 8"):
        check_folder(Comparison(build_plan(changed)))


def test_a_folder_of_something_else_is_refused(tiny_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LinchainError, match="not empty and holds no comparison"):
        check_folder(Comparison(build_plan(values(tiny_model, tmp_path))))
    with pytest.raises(LinchainError, match="holds no comparison"):
        Comparison.load(tmp_path)


def test_dry_run_shows_the_runs_and_leaves_nothing(tiny_model, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(values(tiny_model, tmp_path / "out")))
    shown = CliRunner().invoke(app, ["compare", str(file), "--dry-run"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "10 runs: 4 to search, 4 final (seeds 1, 2), 2 to measure cost" in shown.output
    assert "ms a step of lora (a probe of 5 steps)" in shown.output
    assert "KiB" in shown.output or "MiB" in shown.output
    assert not (tmp_path / "out").exists()


@pytest.fixture
def pretend(monkeypatch):
    """Runs that are made up instead of trained; `pretend.asked` are their trials, `pretend.failing` the errors of some."""
    made = SimpleNamespace(asked=[], failing={})

    def run_all(trials, executor, finished):
        for number, trial in enumerate(trials):
            made.asked.append(trial)
            write_text(trial.files.config, dump_config(build_config(dict(trial.values))))
            trial.files.error.unlink(missing_ok=True)
            if failure := made.failing.get((trial.contestant, trial.stage, trial.seed or trial.learning_rate)):
                write_json(trial.files.error, failure)
            else:
                synthetic.run(made.comparison, trial, number, synthetic.answers, "exact_match", (0.6, 1e-3), 20)
            finished(trial, 1.0)

    def run(plan, console=None, executor=None):
        made.asked.clear()
        made.comparison = Comparison(build_plan(plan))
        return compare(made.comparison, console, executor)

    monkeypatch.setattr("linchain.lab.compare.run_all", run_all)
    made.run = run
    return made


def test_a_plan_that_has_grown_runs_only_what_is_new(pretend, tmp_path):
    plan = values("starter", tmp_path / "out")
    before = {trial.folder: trial.files.result.stat().st_mtime_ns for trial in pretend.run(plan).trials}
    assert len(before) == 10
    printed = StringIO()
    done = pretend.run({**plan, "seeds": 3, "methods": [*plan["methods"], "rslora"]}, Console(file=printed, width=200))
    assert printed.getvalue().splitlines()[0].startswith("[11/18] rslora: search"), "what is done is no time left"
    assert {(one.contestant, one.stage) for one in pretend.asked if one.contestant != "rslora"} == {
        ("lora", "final"),
        ("linchain", "final"),
    }
    assert {one.seed for one in pretend.asked if one.contestant == "lora"} == {3}
    assert len(pretend.asked) == 2 + 2 + 3 + 1
    assert {folder: (folder / "result.json").stat().st_mtime_ns for folder in before} == before
    assert {trial.state for trial in done.trials} == {"done"}
    assert len(json.loads(done.summary.read_text())["tables"][0]["lines"]) == 3
    left_out = Comparison(build_plan(plan)).left_out
    assert len(left_out) == 8
    assert {(folder.parent.name == "rslora") or folder.name.startswith("seed-3-at-") for folder in left_out} == {True}


def test_what_a_plan_leaves_out_of_its_folder_is_said(pretend, tmp_path, monkeypatch):
    plan = values("starter", tmp_path / "out")
    grown = {**plan, "seeds": 3, "methods": [*plan["methods"], "rslora"]}
    monkeypatch.setattr("linchain.lab.describe._check_unchanged", lambda *_: None)  # nothing real has been run
    done = pretend.run(grown)
    assert "also holds" not in _printed(describe(done, costs=False))
    shown = _printed(describe(Comparison(build_plan(plan)), costs=False))
    assert re.search(r"runs/ also holds 8 runs .* \(seed-3-at-.*rslora\): left out", shown)
    assert "at a time, each on 1 CPU thread" in shown


def test_a_comparison_is_no_run_and_its_runs_are_named(pretend, tmp_path):
    done = pretend.run(values("starter", tmp_path / "out", seeds=1))
    with pytest.raises(
        LinchainError, match=r"is a comparison; its runs with weights are .*/lora/seed-1-at-.*/linchain/seed"
    ):
        check_no_comparison(done.folder)
    for trial in done.trials:
        check_no_comparison(trial.folder)


def _printed(shown):
    console = Console(file=StringIO(), width=300)
    console.print(shown)
    return console.file.getvalue()


def test_a_run_that_failed_is_tried_again_and_one_that_diverged_is_not(pretend, tmp_path):
    plan, printed = values("starter", tmp_path / "out"), StringIO()
    accident, diverged = ("lora", "final", 2), ("linchain", "search", 1e-2)
    pretend.failing = {
        accident: {"error": "out of memory", "diverged": False},
        diverged: {"error": "no longer a number", "diverged": True},
    }
    done = pretend.run(plan, Console(file=printed, width=200))
    assert [(one.contestant, one.error) for one in done.analysis.failures] == [
        ("linchain", "no longer a number"),
        ("lora", "out of memory"),
    ]
    assert "lora: seed 2 failed: out of memory" in printed.getvalue()
    pretend.failing, printed = {}, StringIO()
    done = pretend.run(plan, Console(file=printed, width=200))
    assert [(one.contestant, one.stage, one.seed) for one in pretend.asked] == [accident]
    assert "failed" not in printed.getvalue()
    assert [one["contestant"] for one in json.loads(done.summary.read_text())["failures"]] == ["linchain"]


def test_costs_are_measured_in_rounds_each_in_an_order_of_its_own(pretend, tmp_path):
    plan = values("starter", tmp_path / "out", seeds=1, cost={"steps": 2, "rounds": 4})
    pretend.run({**plan, "methods": ["lora", "rslora", "moslora", "linchain"]})
    rounds = [
        [one.contestant for one in group] for _, group in itertools.groupby(_costs(pretend), lambda one: one.seed)
    ]
    assert [sorted(one) for one in rounds] == [["linchain", "lora", "moslora", "rslora"]] * 4
    assert len({tuple(one) for one in rounds}) > 1


def test_costs_of_another_machine_are_measured_again_on_this_one(pretend, tmp_path):
    plan = values("starter", tmp_path / "out", seeds=1)
    done = pretend.run(plan)
    file = done.folder / COST_MACHINE
    here = file.read_text()
    grown = {**plan, "methods": [*plan["methods"], "rslora"]}
    pretend.run(grown)
    assert [one.contestant for one in _costs(pretend)] == ["rslora"], "on the same machine those that are there stay"
    file.write_text("elsewhere\n")
    pretend.run(grown)
    assert pretend.asked == [], "and so they do where nothing is left to measure"
    pretend.run({**grown, "methods": [*grown["methods"], "moslora"]})
    assert {one.contestant for one in _costs(pretend)} == {"lora", "linchain", "rslora", "moslora"}
    assert file.read_text() == here


def test_costs_are_measured_again_where_their_machine_goes_down(pretend, tmp_path, monkeypatch):
    machines, run_all = ["one", "two"], linchain.lab.compare.run_all
    there = SimpleNamespace(machines=lambda: list(machines), alone_on=lambda machine: there, places=lambda: 1)

    def lost_after_one_cost(trials, executor, finished):
        if trials[0].stage == "cost" and "one" in machines:
            run_all(trials[:1], executor, finished)
            machines.remove("one")
            raise MachineLostError
        run_all(trials, executor, finished)

    monkeypatch.setattr("linchain.lab.compare.run_all", lost_after_one_cost)
    done = pretend.run(values("starter", tmp_path / "out", seeds=1), executor=there)
    first, again, other = (one.contestant for one in _costs(pretend))
    assert (first, {again, other}) == (again, {"lora", "linchain"})
    assert {trial.state for trial in done.trials} == {"done"}
    assert (done.folder / COST_MACHINE).read_text() == "two\n"


def _costs(pretend):
    return [one for one in pretend.asked if one.stage == "cost"]


def test_what_a_kill_has_left_beside_a_finished_run_is_removed(pretend, tmp_path):
    plan = values("starter", tmp_path / "out")
    done = pretend.run(plan)
    for trial in done.trials:
        trial.files.checkpoints.folder.mkdir()
        trial.files.adapter.mkdir()
    pretend.run(plan)
    assert pretend.asked == []
    assert not any(trial.files.checkpoints.folder.exists() for trial in done.trials)
    assert {trial.stage for trial in done.trials if trial.files.adapter.exists()} == {"final"}


def test_runs_on_other_data_are_refused(pretend, tmp_path):
    plan = values("starter", tmp_path / "out")
    done = pretend.run(plan)
    last = done.final_trials(done.choices(done.search_trials()))[-1]
    changed = json.loads(last.files.environment.read_text())
    changed["data"]["train"]["sha256"] = "another"
    write_json(last.files.environment, changed)
    with pytest.raises(LinchainError, match=r"linchain/seed-2-at-.* reads other train data than .*lora/search-0\.001"):
        pretend.run(plan)
    last.files.environment.unlink()
    with pytest.raises(LinchainError, match="this plan reads other model files than"):
        describe(done, costs=False)


def test_numbers_that_json_does_not_have_are_left_out_of_the_summary(pretend, tmp_path):
    done = pretend.run(values("starter", tmp_path / "out"))
    table = replace(done.analysis.tables[0], resolvable=math.inf, resolvable_with_seeds=math.nan)
    done.analysis = replace(done.analysis, tables=(table,))
    write_summary(done)
    (table,) = json.loads(done.summary.read_text(), parse_constant=pytest.fail)["tables"]
    assert (table["resolvable"], table["resolvable_with_seeds"]) == (None, None)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_three_times_it_ends_in_the_same_summary(tiny_model, tmp_path, finished):
    file = tmp_path / "plan.yaml"
    output = tmp_path / "killed"
    file.write_text(yaml.safe_dump(values(tiny_model, output)))
    command = [sys.executable, "-m", "linchain", "compare", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    points = sorted(random.sample(range(1, 19), 3))  # other ones each time: any of them must do
    for point in points:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and _progress(output) < point:
            time.sleep(0.01)
        assert process.poll() is None, f"not killed at {point} of {points}"
        process.kill()
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (output / "summary.json").read_bytes() == finished.summary.read_bytes(), f"killed at {points}"


def _progress(folder):
    """How much of a comparison has been written: runs that have logged a loss, and runs that are done; 20 at its end."""
    return sum(len(list(folder.glob(f"runs/*/*/{name}"))) for name in ("metrics.jsonl", "result.json"))
