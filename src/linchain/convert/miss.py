"""MiSS → plain LoRA, and between PEFT's MiSS and our Bone: exact, since they are one formula under several names.

MiSS (arXiv 2409.15371, later versions) computes y = W x + Dᵀ Σ_c x_c over the r-wide tiles x_c of x, the last one padded with
zeros. That is a LoRA with A = [I I … I], cut to the width of x, and B = Dᵀ; its "mini" form repeats the columns of a narrower
D. PEFT's `bat` and bone-col hold the same tensor.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linchain.convert.adapter import init_fields
from linchain.tuners.registration import BoneConfig

if TYPE_CHECKING:
    from peft import LoraConfig, MissConfig, PeftConfig

_BLOCK_KEY = re.compile(r"(?P<module>.+)\.(?:bone|miss)_block$")
# What these methods call the same setting of `bias`.
_BIAS_ONLY = {"LORA": "lora_only", "BONE": "bone_only", "MISS": "MiSS_only"}


def adapter_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bone's or MiSS's tensor of each adapted module, by the module's key prefix."""
    return {match["module"]: tensor for key, tensor in tensors.items() if (match := _BLOCK_KEY.match(key))}


def replace_blocks(tensors: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with `new` in place of the blocks; saved modules and biases are carried through."""
    return {key: tensor for key, tensor in tensors.items() if not _BLOCK_KEY.match(key)} | dict(new)


def miss_to_lora(
    config: MissConfig | BoneConfig, tensors: Mapping[str, Tensor], widths: Mapping[str, tuple[int, int]]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The plain LoRA of rank r that a MiSS adapter (default or "mini") or a bone-plain one equals.

    Args:
        config, tensors: The adapter, with D of shape (r, out), or (r, mini_r), for each module.
        widths: (in, out) of each module, by its key prefix.

    Returns:
        (config, tensors) with lora_A (r, in) and lora_B (out, r), in D's dtype; `lora_alpha` = r, and MiSS's dropout, which
        falls on x as LoRA's does.
    """
    factors = {}
    for module, d in adapter_blocks(tensors).items():
        width, out = widths[module]
        tiles = -(-width // d.shape[0])
        factors[f"{module}.lora_A.weight"] = torch.eye(d.shape[0], dtype=d.dtype).repeat(1, tiles)[:, :width]
        factors[f"{module}.lora_B.weight"] = d.repeat(1, out // d.shape[1]).T
    dropout = getattr(config, "miss_dropout", 0.0)
    return lora_config(config, config.r, lora_dropout=dropout), replace_blocks(tensors, factors)


def lora_config(config: PeftConfig, rank: int, **options: Any) -> LoraConfig:
    """A plain LoRA configuration of scale 1 for the modules that Bone or MiSS adapts."""
    from peft import LoraConfig

    options = {"r": rank, "lora_alpha": rank} | options
    return _convert(config, LoraConfig, options, {"form", "init_weights", "miss_dropout", "mini_r"})


def miss_to_bone(config: MissConfig, tensors: Mapping[str, Tensor]) -> tuple[BoneConfig, dict[str, Tensor]]:
    """PEFT's MissConfig(init_weights="bat") as bone-col: the same tensors, renamed."""
    options = {"form": "col", "init_weights": True}
    return _convert(config, BoneConfig, options, set()), _renamed(tensors, "bone_block")


def bone_to_miss(config: BoneConfig, tensors: Mapping[str, Tensor]) -> tuple[MissConfig, dict[str, Tensor]]:
    """bone-col as PEFT's MissConfig(init_weights="bat"), bone-plain as its default: the same tensors, renamed."""
    from peft import MissConfig

    options = {"init_weights": "bat" if config.form == "col" else True}
    return _convert(config, MissConfig, options, {"form"}), _renamed(tensors, "miss_block")


def _renamed(tensors: Mapping[str, Tensor], leaf: str) -> dict[str, Tensor]:
    return replace_blocks(tensors, {f"{module}.{leaf}": block for module, block in adapter_blocks(tensors).items()})


def _convert(config: Any, cls: Any, options: dict[str, Any], converted: set[str]) -> Any:
    """A `cls` with `options` and all else that it shares with `config`.

    A setting that `cls` does not have is left out; with a warning where it is not the default and not in `converted`.
    """
    shared = {name: copy.deepcopy(getattr(config, name)) for name in init_fields(type(config)) & init_fields(cls)}
    made = cls(**shared | {"bias": "none"} | options)
    if str(config.bias) != "none":
        made.bias = "all" if config.bias == "all" else _BIAS_ONLY[made.peft_type.value]
    default = {field.name: field.default for field in dataclasses.fields(config)}
    for name in sorted(init_fields(type(config)) - init_fields(cls) - converted):
        if (value := getattr(config, name)) != default[name]:
            warnings.warn(f"{name}={value!r} is left out: {cls.__name__} has nothing like it", stacklevel=2)
    return made
