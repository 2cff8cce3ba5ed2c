"""Who is measured: the frozen floor, ours, PEFT's, the naive constructions, full fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from linchain.bench.workload import Workload, sharing_copy
from linchain.errors import LinchainError, unknown_name

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

FLOOR, FLOOR_AGAIN = "floor", "floor-again"
FULL = "full"


@dataclass(frozen=True)
class Contestant:
    """Something to train the base model by.

    Attributes:
        name: as users write it.
        title: what it is, for readers of the table.
        adapt: makes the model to train from a copy of the base; what is trained requires a gradient.
        autocast: whether the forward runs under bfloat16 autocast.
        only_bfloat16: whether it differs from another contestant only where the base is bfloat16.
    """

    name: str
    title: str
    adapt: Callable[[PreTrainedModel, Workload], Any]
    autocast: bool = False
    only_bfloat16: bool = False

    def build(self, base: PreTrainedModel, workload: Workload) -> Any:
        """The model to train. It shares `base`'s frozen weights; full fine-tuning has its own.

        No trained parameter is left at zero, where a step's products could be cheaper to compute than in training.

        Raises:
            LinchainError: For targets that the model does not have, and sizes that do not fit it.
        """
        import torch

        torch.manual_seed(workload.seed)
        model = self.adapt(copy.deepcopy(base) if self.name == FULL else sharing_copy(base), workload)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and not parameter.is_meta and not parameter.any():
                    parameter.normal_(std=0.01)
        return model


def _frozen(base: PreTrainedModel, workload: Workload) -> Any:
    return base


def _full(base: PreTrainedModel, workload: Workload) -> Any:
    return base.requires_grad_(True)


def _adapted(
    make: Callable[[Workload], PeftConfig], base: PreTrainedModel, workload: Workload, float32: bool = True
) -> Any:
    """PEFT's own way to put an adapter on; `float32`: its default of float32 adapters whatever the base's dtype."""
    from linchain.methods.apply import apply

    return apply(base, make(workload), autocast_adapter_dtype=float32)


def _low_rank(workload: Workload) -> dict[str, Any]:
    return {
        "r": workload.r,
        "lora_alpha": workload.lora_alpha,
        "lora_dropout": workload.lora_dropout,
        "target_modules": list(workload.targets),
    }


def _lora(workload: Workload) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(**_low_rank(workload))


def _linchain(workload: Workload, length: int | None = None) -> PeftConfig:
    from linchain import LinChainConfig

    return LinChainConfig(**_low_rank(workload), chain_length=workload.chain_length if length is None else length)


def _bone(form: Any, workload: Workload) -> PeftConfig:
    from linchain import BoneConfig

    return BoneConfig(r=workload.bone_r, form=form, target_modules=list(workload.targets))


def _miss(init: Any, workload: Workload) -> PeftConfig:
    from peft import MissConfig

    return MissConfig(r=workload.bone_r, init_weights=init, target_modules=list(workload.targets))


def _naive_chain(base: PreTrainedModel, workload: Workload, length: int | None = None) -> Any:
    """PEFT's LoRA and its forward, with A followed by n bias-free r × r linear layers, as the authors' code has it."""
    from torch import nn

    class FollowedA(nn.Sequential):
        @property
        def weight(self) -> Any:  # PEFT's forward asks for its dtype
            return self[0].weight

    model = _adapted(_lora, base, workload)
    n = workload.chain_length if length is None else length
    for layer in adapted_modules(model):
        a = layer.lora_A["default"]
        like: dict[str, Any] = {"bias": False, "device": a.weight.device, "dtype": a.weight.dtype}
        layer.lora_A["default"] = FollowedA(a, *(nn.Linear(workload.r, workload.r, **like) for _ in range(n)))
    return model


def adapted_modules(model: Any) -> list[Any]:
    """The layers that PEFT put an adapter on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


_NARROW: dict[str, Any] = {"only_bfloat16": True}
CONTESTANTS = (
    Contestant(FLOOR, "the frozen model: forward and input gradients only", _frozen),
    Contestant(FLOOR_AGAIN, "the same once more: what differs is noise", _frozen),
    Contestant("linchain", "LinChain, ours", partial(_adapted, _linchain)),
    Contestant(
        "linchain-autocast", "LinChain under bfloat16 autocast", partial(_adapted, _linchain), autocast=True, **_NARROW
    ),
    Contestant("linchain-bf16", "LinChain, bfloat16 adapters", partial(_adapted, _linchain, float32=False), **_NARROW),
    Contestant("linchain-n0", "LoRA by us: n = 0", partial(_adapted, partial(_linchain, length=0))),
    Contestant("peft-lora", "PEFT's LoRA, its default: float32 adapters", partial(_adapted, _lora)),
    Contestant(
        "peft-lora-autocast", "PEFT's LoRA under bfloat16 autocast", partial(_adapted, _lora), autocast=True, **_NARROW
    ),
    Contestant("peft-lora-bf16", "PEFT's LoRA, bfloat16 adapters", partial(_adapted, _lora, float32=False), **_NARROW),
    Contestant("naive-linchain", "PEFT's LoRA, n linear layers after A", _naive_chain),
    Contestant("naive-moslora", "the same with one: MoSLoRA as its authors wrote it", partial(_naive_chain, length=1)),
    Contestant("bone-col", "Bone, ours", partial(_adapted, partial(_bone, "col"))),
    Contestant("bone-row", "Bone, ours", partial(_adapted, partial(_bone, "row"))),
    Contestant("bone-plain", "MiSS, ours", partial(_adapted, partial(_bone, "plain"))),
    Contestant(
        "peft-bat", 'PEFT\'s MiSS with init_weights="bat", which is bone-col', partial(_adapted, partial(_miss, "bat"))
    ),
    Contestant("peft-miss", "PEFT's MiSS, its default, which is bone-plain", partial(_adapted, partial(_miss, True))),
    Contestant(FULL, "all weights but the input embedding, in the base's dtype", _full),
)


def choose(names: Sequence[str] | None, workload: Workload) -> list[Contestant]:
    """The contestants of these names in the table's order, or all that make sense; the floors are always among them.

    Raises:
        LinchainError: For an unknown name, and for one that makes sense over a bfloat16 base only.
    """
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    fitting = [c for c in CONTESTANTS if workload.dtype == "bfloat16" or not c.only_bfloat16]
    if names is None:
        return fitting
    for name in names:
        if name not in known:
            raise unknown_name("contestant", name, known)
        if known[name] not in fitting:
            raise LinchainError(
                f"{name!r} needs --dtype bfloat16: over a {workload.dtype} base it is no method of its own"
            )
    return [c for c in fitting if c.name in (FLOOR, FLOOR_AGAIN, *names)]
