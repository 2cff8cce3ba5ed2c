"""What lies in a saved adapter: configuration, tensors, size, and the ranks of its updates. No base model is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linchain.convert.adapter import BASE_PREFIX, WEIGHTS_FILE, read_adapter
from linchain.diagnostics.ranks import ModuleRanks, adapter_ranks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorGroup:
    """Tensors whose keys differ in layer numbers only, and that share shape and dtype.

    Attributes:
        key: their key without PEFT's prefix, and with * for each number that is a part of its own.
        shape: of each tensor.
        dtype: of each tensor, e.g. "float32".
        count: how many there are.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    count: int


@dataclass(frozen=True)
class AdapterReport:
    """A saved adapter.

    Attributes:
        folder: where it lies.
        kind: "linchain", "lora", "fork" (the LinChain authors' own, whose LoRA has mixers), or one of Bone's and MiSS's.
        config: adapter_config.json, without what is empty.
        parameters: numbers in all tensors.
        file_bytes: size of adapter_model.safetensors.
        tensors: the tensors, grouped.
        ranks: of each module's ΔW with the chain folded in; empty for a fork's adapter, which has to be imported
            first, and for Bone's and MiSS's, whose ΔW goes by the base weights or has rank r.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    parameters: int
    file_bytes: int
    tensors: list[TensorGroup]
    ranks: list[ModuleRanks]


def inspect_adapter(path: Path | str) -> AdapterReport:
    """Read the adapter in a folder, or of a run folder, and describe it.

    Raises:
        LinchainError: For a folder that holds no readable adapter of LinChain, LoRA, Bone or MiSS.
    """
    adapter = read_adapter(path)
    ranks = adapter_ranks(adapter) if adapter.kind in ("linchain", "lora") else []
    return AdapterReport(
        folder=adapter.folder,
        kind=adapter.kind,
        config={key: value for key, value in adapter.config.items() if value not in (None, {}, [])},
        parameters=sum(tensor.numel() for tensor in adapter.tensors.values()),
        file_bytes=(adapter.folder / WEIGHTS_FILE).stat().st_size,
        tensors=_grouped(adapter.tensors),
        ranks=ranks,
    )


def _grouped(tensors: dict[str, Tensor]) -> list[TensorGroup]:
    counts: dict[tuple[str, tuple[int, ...], str], int] = {}
    for key, tensor in tensors.items():
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", key.removeprefix(BASE_PREFIX))
        group = (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        counts[group] = counts.get(group, 0) + 1
    return [TensorGroup(*group, count) for group, count in counts.items()]
