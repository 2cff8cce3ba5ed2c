"""Runs on a Ray cluster of two nodes on this machine: lost, refused, interrupted ones, and the same summary at the end."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from linchain.cli.app import app
from linchain.errors import LinchainError
from linchain.lab import ray_executor, ray_node
from linchain.lab.compare import compare
from linchain.lab.executor import TRIES, MachineLostError, run_all
from linchain.lab.plan import build_plan
from linchain.lab.ray_executor import Need, RayExecutor, connected, needed
from linchain.lab.trials import Comparison, Trial
from tests.lab.test_compare import values

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address():
    """That of a cluster of a node with 2 CPUs and one with 1."""
    pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        )  # for tests.lab.workers
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_worker_niceness", "0")  # not behind everything else on this machine
        cluster = _started()
        yield cluster.address
        cluster.shutdown()


def _started(tries=3):
    """A cluster. On a machine that is at work a node may not come up: Ray gives its agents some 15 seconds."""
    from ray.cluster_utils import Cluster

    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=2)
    except Exception:
        if tries == 1:
            raise
        return _started(tries - 1)
    return cluster


@pytest.fixture
def cluster(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)


@pytest.fixture
def light(cluster, monkeypatch):
    """Runs that import `tests.lab.workers` and nothing else."""
    monkeypatch.setattr(ray_executor, "WORK", ("tests.lab.workers", "act"))


def trial(tmp_path, number, act, stage="final"):
    folder = tmp_path / "out" / str(number)
    settings = {"output": str(folder), "folder": str(folder), "act": act}
    return Trial("lora", stage, None, 1e-3, number, folder, settings)


def nothing(trial, seconds):
    pass


@pytest.mark.usefixtures("light")
def test_lost_runs_are_tried_again_failed_ones_are_not_and_runs_go_side_by_side(tmp_path):
    acts = ["meet", "meet", "kill_once", "kill", "explain"]
    trials = [trial(tmp_path, number, act) for number, act in enumerate(acts)]
    ended = []
    with connected(tmp_path / "out", 1) as executor:
        assert executor.describe() == "3 at a time on 2 nodes of a Ray cluster, each on 1 CPU thread"
        run_all(trials, executor, lambda one, seconds: ended.append(one.seed))
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert [one.state for one in trials] == ["done", "done", "done", "failed", "failed"]
    assert max(int((one.folder / "met").read_text()) for one in trials[:2]) == 2
    assert "the process of this run was lost (WorkerCrashedError" in trials[3].error
    assert len((trials[3].folder / "tries").read_text().splitlines()) == TRIES
    assert trials[4].error == "its own words"
    assert not list(tmp_path.glob("**/.ray-*")), "the folder that the nodes were shown is gone"


@pytest.mark.usefixtures("light")
def test_cost_runs_have_one_node_for_themselves_and_interrupted_runs_continue(tmp_path):
    costs = [trial(tmp_path, number, "resources", "cost") for number in range(2)]
    waiting = [trial(tmp_path, 2, "finish"), trial(tmp_path, 3, "wait")]
    with connected(tmp_path / "out", 1) as executor:
        (machine,) = executor.machines()
        alone = executor.alone_on(machine)
        assert alone.places() == 1
        run_all(costs, alone, nothing)
        with pytest.raises(KeyboardInterrupt):
            run_all(waiting, executor, _interrupt(waiting[1].folder / "began"))
        assert [one.state for one in waiting] == ["done", "missing"]
        (tmp_path / "out" / "go").touch()
        run_all(waiting[1:], executor, nothing)
        assert waiting[1].state == "done"
        sizes = {node["NodeID"]: node["Resources"]["CPU"] for node in executor._ray.nodes()}
    (node,) = {(one.folder / "node").read_text() for one in costs}
    assert {float((one.folder / "cpus").read_text()) for one in costs} == {sizes[node]}


def _interrupt(begun):
    def finished(one, seconds):
        while not begun.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    return finished


def test_a_worker_killed_while_it_trains_changes_nothing_in_the_summary(cluster, tiny_model, tmp_path):
    training = {"max_steps": 80, "batch_size": 4, "logging_steps": 2, "save_steps": 10, "eval_steps": 80}
    changes = {"learning_rates": [1e-3], "seeds": 1, "cost": {"rounds": 0}, "training": training}
    local = compare(Comparison(build_plan(values(tiny_model, tmp_path / "local", **changes))))
    there = Comparison(build_plan(values(tiny_model, tmp_path / "ray", **changes)))
    over = threading.Event()
    killer = threading.Thread(target=_kill_trainer, args=(there.folder, over))
    killer.start()
    try:
        with connected(there.folder, 1) as executor:
            done = compare(there, executor=executor)
    finally:
        over.set()
        killer.join()
    assert {one.state for one in done.trials} == {"done"}
    resumed = [one.result["resumed_from_step"] for one in done.trials if one.result["resumed_from_step"]]
    assert len(resumed) == 1, "the run that was killed, from a checkpoint"
    assert done.summary.read_bytes() == local.summary.read_bytes()
    assert json.loads(done.summary.read_text())["failures"] == []


def _kill_trainer(folder, over):
    """SIGKILL to the process of the run that writes the first checkpoint."""
    while not over.wait(0.005):
        with contextlib.suppress(OSError):  # what is looked at comes and goes
            for checkpoint in folder.glob("runs/*/*/checkpoints/checkpoint-*/trainer_state.json"):
                for process in _processes(checkpoint.parents[2] / "log.txt"):
                    os.kill(process, signal.SIGKILL)
                    return


def _processes(log):
    """Those whose output goes to the file `log`."""
    for stdout in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if os.readlink(stdout) == str(log):
                yield int(stdout.parts[2])


def test_a_node_that_cannot_run_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen, here = str(tmp_path), str(tmp_path)
    assert ray_node.problem(here, seen, {"torch": ray_executor.version("torch")}) is None
    assert "cannot enter /no/such/folder" in ray_node.problem("/no/such/folder", seen, {})
    assert "choose an output on storage that all nodes share" in ray_node.problem(here, f"{seen}/elsewhere/x", {})
    others = {"torch": "1.0", "no-such-package": "2"}
    found = ray_node.problem(here, seen, others)
    assert f"has torch {ray_executor.version('torch')} and not 1.0, no-such-package (none) and not 2: " in found


@pytest.mark.usefixtures("cluster")
def test_the_command_refuses_before_it_runs_anything(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "version", lambda package: "0.0")
    with pytest.raises(LinchainError, match=r"node .* of the Ray cluster has linchain .* and not 0\.0"):
        connected(tmp_path / "out", 1).__enter__()
    with pytest.raises(LinchainError, match=r"threads: 64 CPU threads fit on no node .*: 1, 2\)"):
        connected(tmp_path / "out", 64).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "address", "message"),
    [
        ("rey", None, "unknown executor 'rey'; did you mean 'ray'?"),
        ("ray", "ray://head:10001", "a Ray client is not supported"),
        (
            "ray",
            "127.0.0.1:1",
            "no Ray cluster at 127.0.0.1:1 ([Errno 111] Connection refused); start one by `ray start",
        ),
    ],
)
def test_an_executor_that_there_is_not_is_refused(tmp_path, monkeypatch, where, address, message):
    pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    plan = tmp_path / "plan.yaml"
    plan.write_text("model: starter\n" + PLAN + f"output: {tmp_path}/out\n")
    refused = CliRunner().invoke(app, ["compare", "--executor", where, str(plan)])
    assert message in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_a_node_that_is_gone_is_no_loss_of_the_run():
    lost = type("RayError", (Exception,), {})
    there = [{"Alive": True, "NodeID": "1", "NodeManagerHostname": "one", "Resources": {"CPU": 1.0}}]

    def get(task):
        there.clear()
        raise lost

    ray = SimpleNamespace(
        nodes=lambda: there,
        remote=lambda **_: lambda function: None,
        wait=lambda tasks: (tasks, []),
        get=get,
        exceptions=SimpleNamespace(RayError=lost),
    )
    anywhere = RayExecutor(ray, Need(1, False), Path())
    alone = anywhere.alone_on("one")
    alone._running["task"] = (None, 0.0)
    with pytest.raises(MachineLostError, match="one"):
        alone.ended()
    with pytest.raises(MachineLostError, match="one"):
        anywhere.alone_on("one")


PLAN = """
methods: [lora]
options: {target_modules: [q_proj]}
learning_rates: [1e-3]
data: {train: "starter:two_step", test: "starter:two_step"}
"""


def node(cpus, gpus=0.0):
    return {"Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus} if cpus else {}}


@pytest.mark.parametrize(
    ("nodes", "threads", "need", "fit"),
    [
        ([node(0), node(8), node(4)], None, Need(8, False), [0, 1, 0]),
        ([node(8), node(4)], 3, Need(3, False), [2, 1]),
        ([node(2), node(64, 8), node(16, 4)], None, Need(4, True), [0, 8, 4]),
        ([node(16, 1), node(2, 4)], 2, Need(2, True), [1, 1]),
        ([node(2, 4)], None, Need(1, True), [2]),
    ],
)
def test_what_each_run_asks_for_and_how_many_fit(nodes, threads, need, fit):
    assert needed(nodes, threads) == need
    assert [need.fit(one) for one in nodes] == fit


def test_a_cluster_that_no_run_fits_on_is_refused():
    with pytest.raises(
        LinchainError, match=r"a GPU and 8 CPU threads fit on no node .*\(CPUs of its nodes with a GPU: 4\)"
    ):
        needed([node(64), node(4, 1)], 8)
    for nodes in ([node(8), node(4)], [node(4), node(8)]):  # Ray names them now in this order, now in that one
        with pytest.raises(LinchainError, match=r"\(CPUs of its nodes: 4, 8\)"):
            needed(nodes, 64)
    with pytest.raises(LinchainError, match=r"\(CPUs of its nodes: none\)"):
        needed([], None)
