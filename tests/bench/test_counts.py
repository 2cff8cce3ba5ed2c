"""The counts, against steps small enough to be counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from linchain.bench.counts import Counts, Operations, SavedBytes, count
from linchain.bench.workload import Workload
from tests.bench.common import TINY, trainees


def test_operations_are_those_that_launch_a_kernel() -> None:
    x = torch.ones(4, 6)
    with Operations() as operations:
        y = x.view(2, 12).T.contiguous()  # the copy
        y.add_(1)  # in place
        torch.empty(3), y.detach(), y.shape, y.unbind()  # none of them
        y.to(torch.bfloat16)  # a cast
    assert operations.counted == {"aten.clone": 1, "aten.add_": 1, "aten._to_copy": 1}


def test_a_linear_layers_step_by_hand() -> None:
    layer = nn.Linear(3, 5, bias=False)

    def forward() -> Tensor:
        return layer(x.detach().requires_grad_()).sum()

    x = torch.randn(7, 3)
    counts = count(forward, layer)
    # forward: product, sum; backward: the ones it starts from, and the products that give dx and dW
    assert counts.operations == 5
    assert counts.saved_bytes == 7 * 3 * 4  # x for dW; the weight, for dx, is a parameter
    layer.requires_grad_(False)
    frozen = count(forward, layer)
    assert frozen == Counts(operations=4, saved_bytes=0)
    assert counts.added_to(frozen, modules=2) == {"operations": 0.5, "saved_bytes": 42.0}
    assert layer.weight.grad is None


def test_a_storage_counts_once_and_whole() -> None:
    x = torch.randn(10, requires_grad=True)
    with SavedBytes(nn.Identity()) as saved:
        kept = x.exp()
        loss = (kept[:5] * kept[5:]).sum()
    assert saved.total == 40
    loss.backward()


def test_what_is_saved_is_freed_on_the_way_back() -> None:
    gone: list[bool] = []

    def forward() -> Tensor:
        first = torch.randn(7, requires_grad=True).exp()
        second = first.exp()  # is saved for its own backward
        storage = StorageWeakRef(second.untyped_storage())
        first.register_hook(lambda gradient: gone.append(storage.expired()))
        return second.sum()

    assert count(forward, nn.Identity()).saved_bytes == 2 * 7 * 4
    assert gone == [True]


def test_the_same_step_gives_the_same_counts() -> None:
    floor, again = trainees(Workload(**TINY), "floor", "floor-again")
    assert count(floor.forward, floor.model) == count(again.forward, again.model)


def test_pefts_lora_by_hand() -> None:
    """Float32 adapters over a bfloat16 base."""
    workload = Workload(**TINY, targets=("o_proj",))
    floor, lora = trainees(workload, "floor", "peft-lora")
    added = count(lora.forward, lora.model).added_to(count(floor.forward, floor.model), modules=1)
    tokens = workload.tokens
    # forward: x to float32, two products, the scale, the sum with the base's output, which is float32, and its cast
    # backward: g to float32 and from there to the base, the scale, dB, dh, dA, dx, its cast and its sum with the base's
    assert added["operations"] == 6 + 9
    # x in float32, and h; the product with the scale saves nothing
    assert added["saved_bytes"] == 4 * tokens * (32 + 4)
