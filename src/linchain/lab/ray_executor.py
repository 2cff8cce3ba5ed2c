"""The executor on a Ray cluster. The folder of the comparison, on storage that all nodes share, is all that is known of it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from linchain.errors import LinchainError, first_line
from linchain.files import PART
from linchain.lab import ray_node
from linchain.lab.executor import End, MachineLostError, needs
from linchain.lab.trials import Trial
from linchain.training.environment import PACKAGES

WORK = ("linchain.lab.worker", "work_on_cluster")
ADDRESS = "RAY_ADDRESS"
ANSWERS = 120.0  # seconds that a node has for its check: a process has to start, on a machine that may be at work
SEEN = 120.0  # seconds until a file that another node wrote is seen here: NFS remembers what was not there, at most 60


@contextmanager
def connected(folder: Path, threads: int | None) -> Iterator[RayExecutor]:
    """An executor on the cluster that RAY_ADDRESS names, else on that of this machine.

    Args:
        folder: of the comparison. Until left, a folder of our own lies beside or in it, that every node has to see.
        threads: CPU threads of a run. None: where there are GPUs, what each of them can have on every node that has some;
            elsewhere all CPUs of the largest node.

    Raises LinchainError where there is no cluster, a run fits on none of its nodes, or one of those that it fits on does not
    see `folder` or holds other versions.
    """
    ray = _connect()
    scratch = None
    try:
        need = needed(_nodes(ray), threads)
        existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        # so named, what a kill leaves of it is passed over
        scratch = Path(tempfile.mkdtemp(prefix=".ray-", suffix=PART, dir=existing.absolute()))
        executor = RayExecutor(ray, need, scratch)
        executor.check()
        yield executor
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        ray.shutdown()


@dataclass(frozen=True)
class Need:
    """What a run asks for."""

    threads: int
    gpu: bool

    def fit(self, node: Mapping[str, Any]) -> int:
        """How many runs go at a time on a node with nothing else on it."""
        return int(min(_amount(node, "CPU") // self.threads, _amount(node, "GPU") if self.gpu else float("inf")))


def needed(nodes: Sequence[Mapping[str, Any]], threads: int | None) -> Need:
    """What each run asks for: a GPU, where any node has one, and `threads`. The same for all, or they would not be comparable.

    Raises LinchainError where that fits on none of the `nodes` (`ray.nodes()`).
    """
    with_gpus = [node for node in nodes if _amount(node, "GPU") >= 1]
    cpus = sorted(_amount(node, "CPU") for node in with_gpus or nodes)  # Ray names its nodes in no order of its own
    if threads is None:
        each = (
            min(_amount(node, "CPU") // _amount(node, "GPU") for node in with_gpus)
            if with_gpus
            else max(cpus, default=0)
        )
        threads = max(1, int(each))
    need = Need(threads, bool(with_gpus))
    if not any(need.fit(node) for node in nodes):
        raise LinchainError(
            f"threads: {needs(threads, need.gpu)} fit on no node of the Ray cluster (CPUs of its nodes"
            f"{' with a GPU' if need.gpu else ''}: {', '.join(f'{one:g}' for one in cpus) or 'none'}); lower threads, or start "
            "larger nodes"
        )
    return need


class RayExecutor:
    """Ray tasks, each in a process of its own (`linchain.lab.executor.Executor`).

    All runs are handed to Ray at once: its queue is what tells an autoscaler to start nodes. With `node`, one of
    `ray.nodes()`, they go there, one at a time, and each is given all of the node's CPUs and GPUs, so that no other task of
    the cluster is beside it. It uses one GPU, and as many threads as any other.
    """

    def __init__(self, ray: Any, need: Need, scratch: Path, node: Mapping[str, Any] | None = None) -> None:
        self.scratch = scratch
        self._ray, self._need, self._node = ray, need, node
        self._surroundings = (os.getcwd(), str(scratch), {package: version(package) for package in PACKAGES})
        self._running: dict[Any, tuple[Trial, float]] = {}
        # each try in a new process: nothing of another run is left in its memory, nor in its GPU's
        self._attempt = ray.remote(max_calls=1, max_retries=0)(ray_node.attempt)

    def check(self) -> None:
        """Raises LinchainError with the name of a node that runs would fit on, but cannot run."""
        checking = self._ray.remote(num_cpus=0, max_retries=0)(ray_node.problem)
        asked = {
            checking.options(scheduling_strategy=self._only(node)).remote(*self._surroundings): _name(node)
            for node in self._fitting()
        }
        _, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERS)
        if silent:
            raise LinchainError(
                f"node {asked[silent[0]]} of the Ray cluster has not answered for {ANSWERS:.0f} seconds"
            )
        for answer, name in asked.items():
            try:
                found = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                found = f"could not be asked: {_said(error)}"
            if found:
                raise LinchainError(f"node {name} of the Ray cluster {found}")

    def describe(self) -> str:
        nodes = len(self._fitting())
        where = f"{nodes} nodes" if nodes > 1 else "1 node"
        return f"{self.places()} at a time on {where} of a Ray cluster, each on {needs(self._need.threads, self._need.gpu)}"

    def places(self) -> int:
        return 1 if self._node else max(1, sum(map(self._need.fit, self._fitting())))

    def room(self) -> bool:
        return not (self._node and self._running)

    def submit(self, trial: Trial) -> None:
        asked: dict[str, Any] = {"num_cpus": self._need.threads, "num_gpus": int(self._need.gpu)}
        if self._node:
            asked = {"num_cpus": _amount(self._node, "CPU"), "num_gpus": _amount(self._node, "GPU")}
            asked["scheduling_strategy"] = self._only(self._node)
        task = self._attempt.options(name=trial.describe(), **asked)
        arguments = (WORK, dict(trial.values), trial.stage, self._need.threads, self._surroundings)
        self._running[task.remote(*arguments)] = (trial, time.perf_counter())

    def ended(self) -> list[End]:
        ready, _ = self._ray.wait(list(self._running))
        return [self._end(one, *self._running.pop(one)) for one in ready]

    def _end(self, task: Any, trial: Trial, submitted: float) -> End:
        try:
            report = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if self._node and self._node["NodeID"] not in {node["NodeID"] for node in _nodes(self._ray)}:
                raise MachineLostError(_name(self._node)) from error
            return End(trial, time.perf_counter() - submitted, f"was lost ({_said(error)})")
        if report["problem"]:  # a node that has come since the check
            raise LinchainError(f"node {report['node']} of the Ray cluster {report['problem']}")
        for name in report["left"]:
            _wait_until_seen(trial.folder / name, report["node"])
        return End(trial, report["seconds"], f"was interrupted on {report['node']}")

    def stop(self, signalled: bool) -> None:
        for task in self._running:
            self._ray.cancel(task)  # the signal of Ctrl-C to a run that goes, which then writes a checkpoint
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running))

    def machines(self) -> list[str]:
        return sorted({_name(node) for node in self._fitting()})

    def alone_on(self, machine: str) -> RayExecutor:
        node = next((node for node in self._fitting() if _name(node) == machine), None)
        if node is None:
            raise MachineLostError(machine)
        return RayExecutor(self._ray, self._need, self.scratch, node)

    def _fitting(self) -> list[Mapping[str, Any]]:
        return [node for node in _nodes(self._ray) if self._need.fit(node)]

    def _only(self, node: Mapping[str, Any]) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _connect() -> Any:
    address = os.environ.get(ADDRESS, "auto")
    if "://" in address:
        raise LinchainError(
            f"{ADDRESS}={address}: a Ray client is not supported; run linchain on a node of the cluster, with its address as "
            "host:port"
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it as it is imported
    try:
        import ray
    except ImportError:
        raise LinchainError("--executor ray needs Ray: pip install 'linchain[ray]'") from None
    try:
        _knock(address)
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise LinchainError(
            f"--executor ray: no Ray cluster at {address} ({first_line(error)}); start one by `ray start --head`, or name one "
            f"in {ADDRESS}"
        ) from error
    ray.cloudpickle.register_pickle_by_value(ray_node)
    return ray


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at host:port, which Ray takes minutes to find out."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _nodes(ray: Any) -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return node["NodeManagerHostname"]


def _amount(node: Mapping[str, Any], resource: str) -> float:
    return node["Resources"].get(resource, 0.0)


def _said(error: Exception) -> str:
    """Ray's error in one line; of one that was raised by a task, what was raised."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {first_line(cause)}"


def _wait_until_seen(file: Path, node: str) -> None:
    end = time.monotonic() + SEEN
    while not file.is_file():
        if time.monotonic() > end:
            raise LinchainError(
                f"node {node} wrote {file}, which is not seen here: is it on storage that all nodes share?"
            )
        time.sleep(0.1)
