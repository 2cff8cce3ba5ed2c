"""What needs no clock: the operations of a step, and the bytes that its forward saves for its backward.

These figures are the same on every machine of one kind of device, so that tests can hold them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from linchain.ops import triton_chain

# Allocations, and what only looks at a tensor: their results alias nothing, and yet no kernel runs
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


@dataclass(frozen=True)
class Counts:
    """Of one forward and backward.

    Attributes:
        operations: kernel-like operations.
        saved_bytes: bytes of the distinct storages saved for the backward, the parameters' left out.
    """

    operations: int
    saved_bytes: int

    def added_to(self, floor: Counts, modules: int) -> dict[str, float]:
        """What each of `modules` adapted modules adds to the frozen model's counts, on average."""
        return {
            "operations": (self.operations - floor.operations) / modules,
            "saved_bytes": (self.saved_bytes - floor.saved_bytes) / modules,
        }


def count(forward: Callable[[], Tensor], model: torch.nn.Module) -> Counts:
    """The counts of `forward`, which gives a scalar, and of its backward; gradients of `model` are dropped.

    The optimizer is left out: fused AdamW takes one operation for all parameters together.
    """
    with torch.autograd.set_multithreading_enabled(False), Operations() as operations:
        with SavedBytes(model) as saved:
            loss = forward()
        loss.backward()
    model.zero_grad()
    return Counts(operations.counted.total(), saved.total)


class Operations(TorchDispatchMode):
    """Counts the operations within it that launch a kernel, by name: not views, allocations and questions of shape.

    A backward is seen only where autograd runs it in the thread that called it: on a CPU, or with
    `torch.autograd.set_multithreading_enabled(False)`. An operation that is registered with torch as one counts as one,
    whatever it does inside; so does a launch of `linchain.ops.triton_chain`, which torch does not see.

    >>> with Operations() as operations:
    ...     _ = (torch.ones(2, 3).T @ torch.ones(2, 3)).view(9).add_(1)
    >>> operations.counted
    Counter({'aten.ones': 2, 'aten.mm': 1, 'aten.add_': 1})
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._launched_before = triton_chain.launches
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if launched := triton_chain.launches - self._launched_before:
            self.counted["triton_chain"] += launched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _launches(func._schema):
            self.counted[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def _launches(schema: torch._C.FunctionSchema) -> bool:
    name = schema.name.partition("::")[2]
    results = schema.returns
    writes = any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments)
    if writes:
        return True
    views = any(result.alias_info is not None for result in results)
    tensors = any("Tensor" in str(result.type) for result in results)
    return tensors and not views and name not in _FREE


class SavedBytes:
    """Counts the bytes of the distinct storages that forwards within it save for the backward.

    The storages of `model`'s parameters are left out: they are there anyhow.

    Attributes:
        total: the bytes, known afterwards.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._saved: dict[int, Tensor] = {}
        self.total = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._own:
            self._saved[storage] = tensor  # held, so that no other storage gets its identity
        return tensor

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self.total = sum(tensor.untyped_storage().nbytes() for tensor in self._saved.values())
        self._saved.clear()  # the backward needs the memory that it frees on its way
