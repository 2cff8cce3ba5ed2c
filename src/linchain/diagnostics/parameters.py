"""Trained parameters by module, and the size of their file, counted on the real model (the meta device will do)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linchain.methods.apply import moves_base

if TYPE_CHECKING:
    from torch import Tensor, nn

# dtypes as safetensors writes them
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}


@dataclass(frozen=True)
class ModuleParameters:
    """Trainable parameters of the modules that share a last name and a shape.

    Attributes:
        name: last part of the module's name, e.g. "q_proj".
        shape: of the frozen weight, as stored; None for a module that is trained in full.
        count: how many such modules the model has.
        parameters: trainable parameters of all of them.
    """

    name: str
    shape: tuple[int, ...] | None
    count: int
    parameters: int


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trainable and all parameters of a model; for one with adapters, as PEFT counts them."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def parameters_by_module(model: nn.Module) -> list[ModuleParameters]:
    """The trainable parameters, grouped by their module's last name and shape, in the model's order."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    owners: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    }
    by_module: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            prefixes = (".".join(parts[:i]) for i in range(1, len(parts)))
            owner = next((prefix for prefix in prefixes if prefix in owners), ".".join(parts[:-1]))
            by_module[owner] = by_module.get(owner, 0) + parameter.numel()
    groups: dict[tuple[str, tuple[int, ...] | None], list[int]] = {}
    for name, number in by_module.items():
        layer = owners.get(name)
        shape = _weight_shape(layer) if isinstance(layer, BaseTunerLayer) else None
        groups.setdefault((name.rpartition(".")[2], shape), []).append(number)
    return [ModuleParameters(name, shape, len(found), sum(found)) for (name, shape), found in groups.items()]


def _weight_shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.get_base_layer().weight.shape)


def saved_size(model: nn.Module, config: Any) -> int:
    """Bytes of the safetensors file that a run would write of this model, its header included.

    Args:
        model: with the adapter of `config`, a PeftConfig; where that is None, a model that is trained in full.
    """
    import torch
    from peft import get_peft_model_state_dict
    from torch._subclasses.fake_tensor import FakeTensorMode

    from linchain.convert.moved_base import for_whole_base

    if config is None:
        return safetensors_size({name: parameter.data for name, parameter in model.named_parameters()})
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model)
    if moves_base(config):
        with FakeTensorMode():  # shapes without data, on a device that chains fold on
            fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
            _, tensors = for_whole_base(config, fake, fake)
    return safetensors_size(tensors)


def safetensors_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the safetensors file that PEFT writes for these tensors, which may be on the meta device.

    The format: 8 bytes for the header's length, the header (compact JSON with dtype, shape and offsets of every tensor,
    padded to a multiple of 8), the data. Tensors lie in order of falling alignment, then of name.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        end = offset + tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        header[name] = {"dtype": _DTYPES.get(dtype, dtype), "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset
