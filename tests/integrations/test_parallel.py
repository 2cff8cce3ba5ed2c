"""DDP and FSDP2 with two processes on a CPU: the losses and the adapters of one process, up to float32's rounding."""

from __future__ import annotations

import copy
from datetime import timedelta
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from linchain import BoneConfig, LinChainConfig
from tests.integrations.tiny_models import ARCHITECTURES, LLAMA_TARGETS

WORLD = 2
STEPS = 3
METHODS = {
    "linchain": partial(LinChainConfig, r=4, chain_length=3),
    "linchain-0": partial(LinChainConfig, r=4, chain_length=0),
    "linchain-4-6-2": partial(LinChainConfig, chain_widths=[4, 6, 2]),
    "bone-col": partial(BoneConfig, r=8, form="col"),
    "bone-row": partial(BoneConfig, r=8, form="row"),
}
HALVES = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
# whether every decoder layer is a unit of its own, then `fully_shard`'s options
FSDP: dict[str, tuple[bool, dict[str, Any]]] = {
    "whole": (False, {}),
    "layers": (True, {}),
    "layers, resharded": (True, {"reshard_after_forward": True}),
    "layers, kept": (True, {"reshard_after_forward": False}),
    "layers, bf16": (True, {"mp_policy": HALVES}),
}
CASES = [(method, kind) for method in ("linchain", "bone-col", "bone-row") for kind in ("DDP", *FSDP)]
CASES += [("linchain-0", "layers"), ("linchain-4-6-2", "layers")]


def adapted(method: str) -> Any:
    architecture = ARCHITECTURES["llama"]
    config = METHODS[method](init_weights=False, target_modules=LLAMA_TARGETS)
    return get_peft_model(architecture.build(), config)


def sharded(model: Any, kind: str) -> Any:
    if kind == "DDP":
        return DistributedDataParallel(model)
    by_layer, options = FSDP[kind]
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model.get_base_model().model.layers if by_layer else ():
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def trained(model: Any, ids: Tensor, evaluate: Any) -> tuple[list[float], list[Tensor]]:
    """The mean loss of each step, and the logits in evaluation before and after the steps, without a call of train()."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses, logits = [], [evaluate()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        if dist.is_initialized():
            dist.all_reduce(loss.detach())
        losses.append(loss.item() / (WORLD if dist.is_initialized() else 1))
    return losses, [*logits, evaluate()]


def run(method: str, kind: str | None, rank: int = 0) -> dict[str, Any]:
    """What one process of a run found; the batch's halves go to the two."""
    torch.manual_seed(0)
    model = adapted(method)
    # in evaluation from the start: what is remembered must not outlive a step
    model.eval()
    ids = ARCHITECTURES["llama"].batch()["input_ids"]
    whole = sharded(model, kind) if kind else model

    @torch.no_grad()
    def evaluate() -> Tensor:
        return whole(input_ids=ids).logits.float()

    losses, logits = trained(whole, ids.chunk(WORLD)[rank] if kind else ids, evaluate)
    full = StateDictOptions(full_state_dict=True)
    if kind in FSDP:
        state = get_model_state_dict(whole, options=full)
        set_model_state_dict(whole, {name: value * 1.5 for name, value in state.items()}, options=full)
    else:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict({name: value * 1.5 for name, value in state.items()})
    adapter = copy.deepcopy(get_peft_model_state_dict(model, state_dict=state))
    return {"losses": losses, "logits": [*logits, evaluate()], "adapter": adapter}


def work(rank: int, folder: str) -> None:
    """One of the processes: every case, what was found written into the folder by the first."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    # a process that is left alone in a case gives up before the test run does
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    found = {}
    for method, kind in CASES:
        try:
            found[method, kind] = run(method, kind, rank)
        except Exception as error:  # the other process fails alike, so the cases after it are sound
            found[method, kind] = repr(error)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("no gloo")
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return torch.load(folder / "found.pt")


@cache
def alone(method: str) -> dict[str, Any]:
    """What a single process finds."""
    return run(method, None)


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_equals_one_process(method: str, kind: str, found: dict[tuple[str, str], Any]) -> None:
    ours, expected = found[method, kind], alone(method)
    assert isinstance(ours, dict), ours
    close = {"rtol": 0.05, "atol": 0.05} if "bf16" in kind else {"rtol": 1e-4, "atol": 2e-5}
    torch.testing.assert_close(ours["losses"], expected["losses"], **close)
    assert ours["adapter"].keys() == expected["adapter"].keys()
    for name, value in expected["adapter"].items():
        torch.testing.assert_close(ours["adapter"][name], value, **close, msg=lambda m, n=name: f"{n}: {m}")
    for ours_then, expected_then in zip(ours["logits"], expected["logits"], strict=True):
        error = (ours_then - expected_then).norm() / expected_then.norm()
        assert error < (0.1 if "bf16" in kind else 1e-4)
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(expected["logits"], expected["logits"][1:], strict=False))
