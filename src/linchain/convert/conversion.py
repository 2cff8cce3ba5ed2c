"""One adapter as another: the step between reading an adapter and writing it, for every pair of the table in forms.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linchain.convert.fold import cast, fold_adapter
from linchain.convert.forms import APPROXIMATE, CONVERSIONS, NAMES, Kind
from linchain.convert.miss import adapter_blocks, bone_to_miss, miss_to_bone, miss_to_lora
from linchain.convert.svd import Approximation, closest_lora

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_EQUAL = (
    "It was converted by linchain {version}, computes what the adapter that it was made from computes, and can be trained "
    "on."
)


@dataclass(frozen=True)
class Converted:
    """An adapter to be written.

    Attributes:
        config, tensors: by PEFT's saved keys.
        description: what it is, e.g. "plain LoRA adapter of rank 16".
        origin: what it was made from and how, a sentence or two; {version} stands for ours.
        approximation: how far it is from what it was made from; None where it is exact.
    """

    config: PeftConfig
    tensors: dict[str, Tensor]
    description: str
    origin: str
    approximation: Approximation | None = None


def convert(
    kind: Kind,
    to: str,
    config: Any,
    tensors: dict[str, Tensor],
    model: PeftModel,
    dtype: torch.dtype | None = None,
    svd_rank: int | None = None,
) -> Converted:
    """The adapter in the form `to`, one that `linchain.convert.forms.check_target` let pass.

    Args:
        kind: What the adapter is.
        to: "lora", "linchain", "bone" or "miss".
        config, tensors: The adapter; where `to` is "linchain", one that has its chains already.
        model: The base model with the adapter on it, for the widths of its modules and its weights.
        dtype: Dtype of all tensors returned; without it, what the conversion itself gives.
        svd_rank: R, for what is no LoRA.
    """
    if to == "linchain":
        widths = " → ".join(map(str, config.widths(config.r)))
        made = Converted(config, tensors, f"LinChain adapter of widths {widths}", _EQUAL)
    elif to == "bone":
        made = Converted(*miss_to_bone(config, tensors), f"bone-col adapter with blocks of {config.r}", _EQUAL)
    elif to == "miss":
        name = {"bone-col": "MiSS bat", "bone-plain": "MiSS"}[kind]
        made = Converted(*bone_to_miss(config, tensors), f"{name} adapter with blocks of {config.r}", _EQUAL)
    else:
        made = _as_lora(kind, config, tensors, model, dtype, svd_rank)
    rounded = {key: cast(tensor, dtype) for key, tensor in made.tensors.items()}
    return Converted(made.config, rounded, made.description, made.origin, made.approximation)


def _as_lora(
    kind: Kind,
    config: Any,
    tensors: dict[str, Tensor],
    model: PeftModel,
    dtype: torch.dtype | None,
    svd_rank: int | None,
) -> Converted:
    lora: Any
    if CONVERSIONS[kind]["lora"] == APPROXIMATE:
        assert svd_rank is not None
        lora, plain, found = closest_lora(config, tensors, model, svd_rank, dtype or torch.float32)
        origin = (
            f"It was made by linchain {{version}} from a {NAMES[kind]} adapter, which no LoRA equals: of all LoRAs of its rank "
            f"this is the closest to its update. **It is not the same model**: {found}."
        )
        return Converted(lora, plain, f"plain LoRA adapter of rank {svd_rank} (an approximation)", origin, found)
    if kind in ("linchain", "fork"):
        lora, plain = fold_adapter(config, tensors)
        how = "with a chain between A and B, which linchain {version} folded into them"
    else:
        modules = {module: model.get_submodule(module) for module in adapter_blocks(tensors)}
        widths: Any = {name: (layer.in_features, layer.out_features) for name, layer in modules.items()}
        lora, plain = miss_to_lora(config, tensors, widths)
        how = f"as {NAMES[kind]}, which is a LoRA with a fixed A, and written as one by linchain {{version}}"
    origin = f"It was trained {how}; that is exact, and linchain is not needed to use it."
    return Converted(lora, plain, f"plain LoRA adapter of rank {lora.r}", origin)
