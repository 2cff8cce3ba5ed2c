"""The update ΔW = W' − W of each module of a model in training, by every kind of adapter, and what it is made of.

W is the weight as it was before training, also where a start was taken out of it (PiSSA, OLoRA, LoRA-GA). All in float64, thin
factors on the CPU and dense weights on their own device; and only reading: nothing is merged, drawn, or written to the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.miss import MissLinear
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain.diagnostics.ranks import Ranks, dense_ranks, float64, product_singular_values, ranks_of
from linchain.methods.apply import moves_base
from linchain.ops import block_affine, fold, unstack
from linchain.tuners.bone.layer import BoneLinear
from linchain.tuners.linchain.chain import ChainedA, HasChain

# DoRA's magnitudes and norms are rounded to float32 each: a change of the weight within that is none
_ROUNDING = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Part:
    """A parameter of an update and the names of the factors in it: one, or W1 … Wn where it is a stacked chain."""

    parameter: Tensor
    names: tuple[str, ...]
    stacked: bool = False

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The factors in `tensor`, which is the parameter or its gradient, by name."""
        return dict(zip(self.names, unstack(tensor) if self.stacked else [tensor], strict=True))


class Update(ABC):
    """ΔW of one module, which can be measured again and again while it is trained.

    Attributes:
        name: the module's name in the base model.
    """

    name: str

    @property
    def rank(self) -> int | None:
        """Narrowest inner width of ΔW = B·A, the most that any rank can reach; None where ΔW is dense."""
        return None

    @abstractmethod
    def parts(self) -> list[Part]:
        """What ΔW is made of; named as in the catalogue's equation."""

    @abstractmethod
    def ranks(self) -> Ranks:
        """The spectrum of ΔW as it is now."""

    def factors(self) -> dict[str, Tensor]:
        """The matrices of the product that ΔW is, (rows, columns) in float64, and of a chain's "AW" = W_n … W_1 A."""
        return {}

    def folding_error(self) -> float | None:
        """‖ΔW' − ΔW‖_F / ‖ΔW‖_F, ΔW' having the chain folded into A in A's dtype; None without a chain, or where ΔW is 0."""
        return None

    def is_finite(self) -> bool:
        """Whether all numbers of the parts are numbers."""
        return all(bool(part.parameter.isfinite().all()) for part in self.parts())


class LowRank(Update):
    """s · B W_n … W_1 A of LoRA and LinChain, less the start that was taken out of the base weight, if one was.

    Convolutions count as the matrix (out, in · kernel).
    """

    def __init__(self, name: str, layer: LoraLayer, adapter: str, moved: bool) -> None:
        self.name, self.layer, self.adapter = name, layer, adapter
        self.start: tuple[Tensor, Tensor] | None = None
        if moved:
            b, a = self._b_and_a()
            self.start = b.clone(), a.clone()  # float64 factors are not copies

    @property
    def rank(self) -> int | None:
        a, chain, _ = self._parameters()
        width = min(len(factor) for factor in (a, *(chain.factors() if chain is not None else ())))
        return width if self.start is None else 2 * width

    def parts(self) -> list[Part]:
        a, chain, b = self._parameters()
        return [Part(a, ("A",)), *(_chain_parts(chain) if chain is not None else ()), Part(b, ("B",))]

    @property
    def multiplies(self) -> bool:
        """Whether the factors multiply to one matrix: those of grouped convolutions do not."""
        factors = self._stored()
        return factors["B"].shape[1] == _folded(factors).shape[0]

    @torch.no_grad()
    def ranks(self) -> Ranks:
        return ranks_of(product_singular_values(*self._product()))

    @torch.no_grad()
    def factors(self) -> dict[str, Tensor]:
        factors = self._stored()
        return factors if len(factors) == 2 else factors | {"AW": _folded(factors)}

    @torch.no_grad()
    def folding_error(self) -> float | None:
        _, chain, _ = self._parameters()
        if not isinstance(chain, ChainedA):
            return None
        factors = self._stored()
        exact = _folded(factors)
        rounded = chain.folded_weight().to(chain.weight.dtype).flatten(1).cpu().double()
        size = product_singular_values(factors["B"], exact).norm()
        return float(product_singular_values(factors["B"], rounded - exact).norm() / size) if size else None

    def _parameters(self) -> tuple[Tensor, HasChain | None, Tensor]:
        layer: Any = self.layer
        if self.adapter in layer.lora_embedding_A:
            chain = dict(getattr(layer, "lora_embedding_chain", {})).get(self.adapter)
            return layer.lora_embedding_A[self.adapter], chain, layer.lora_embedding_B[self.adapter]
        a = layer.lora_A[self.adapter]
        return a.weight, a if isinstance(a, HasChain) else None, layer.lora_B[self.adapter].weight

    def _stored(self) -> dict[str, Tensor]:
        """A, W1 … Wn and B as matrices on the CPU."""
        a, chain, b = self._parameters()
        inner = chain.factors() if chain is not None else []
        names = ["A", *(f"W{i + 1}" for i in range(len(inner))), "B"]
        return {name: t.detach().flatten(1).cpu().double() for name, t in zip(names, [a, *inner, b], strict=True)}

    def _b_and_a(self) -> tuple[Tensor, Tensor]:
        factors = self._stored()
        return factors["B"] * self.layer.scaling[self.adapter], _folded(factors)

    def _product(self) -> tuple[Tensor, Tensor]:
        """B (out, r) and A (r, in) of ΔW, the scale in B; of rank 2r where a start is taken off."""
        b, a = self._b_and_a()
        if self.start is None:
            return b, a
        return torch.cat([b, -self.start[0]], dim=1), torch.cat([a, self.start[1]])


class Dora(LowRank):
    """m/‖V‖ · V − W with V = W + s · B A, the norm taken for each output (arXiv 2402.09353, eq. 5)."""

    @property
    def rank(self) -> None:
        return None

    @property
    def _magnitude(self) -> Tensor:
        layer: Any = self.layer
        return layer.lora_magnitude_vector[self.adapter].weight

    def parts(self) -> list[Part]:
        return [*super().parts(), Part(self._magnitude, ("m",))]

    @torch.no_grad()
    def ranks(self) -> Ranks:
        layer: Any = self.layer
        weight = _weight(layer).flatten(1)
        if getattr(layer, "fan_in_fan_out", False) or self.adapter in layer.lora_embedding_A:
            weight = weight.T
        b, a = self._product()
        moved = weight + (b @ a).to(weight)
        magnitude = self._magnitude.detach().flatten().to(weight)
        delta = (magnitude / moved.norm(dim=1)).unsqueeze(1) * moved - weight
        return dense_ranks(delta if delta.norm() > _ROUNDING * weight.norm() else torch.zeros_like(delta))


class Blocks(Update):
    """W' − W of Bone and of MiSS, whose plain form is the low-rank Dᵀ [I I … I]."""

    def __init__(self, name: str, layer: BoneLinear | MissLinear, adapter: str) -> None:
        self.name, self.layer, self.adapter = name, layer, adapter
        if isinstance(layer, BoneLinear):
            self.form = layer.bone_form[adapter]
        else:
            self.form = "col" if layer.miss_fn == "bat" else "plain"

    @property
    def rank(self) -> int | None:
        return len(self._blocks) if self.form == "plain" else None

    @property
    def _blocks(self) -> Tensor:
        layer: Any = self.layer
        return (layer.bone_block if isinstance(layer, BoneLinear) else layer.miss_block)[self.adapter]

    def parts(self) -> list[Part]:
        return [Part(self._blocks, ("D" if self.form == "plain" else "B",))]

    @torch.no_grad()
    def ranks(self) -> Ranks:
        blocks = self._blocks.detach()
        if self.form == "plain":
            blocks = blocks.cpu().double()
            d = blocks.repeat(1, self.layer.out_features // blocks.shape[1])  # MiSS's "mini" form has fewer columns
            tiles = -(-self.layer.in_features // len(d))
            a = torch.eye(len(d), dtype=d.dtype).repeat(1, tiles)[:, : self.layer.in_features]
            return ranks_of(product_singular_values(d.T, a))
        weight = _weight(self.layer)
        if isinstance(self.layer.get_base_layer(), Conv1D):
            weight = weight.T
        return dense_ranks(block_affine.adapted_weight(weight, blocks.to(weight), self.form) - weight)


class Full(Update):
    """W' − W of a weight that is trained itself; W is kept in the CPU's memory."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.before = self._weight.detach().cpu().clone()

    @property
    def _weight(self) -> Tensor:
        return cast(Tensor, self.layer.weight)

    def parts(self) -> list[Part]:
        return [Part(self._weight, ("W",))]

    @torch.no_grad()
    def ranks(self) -> Ranks:
        weight = float64(self._weight.detach())
        return dense_ranks(weight - self.before.to(weight))


def updates_of(model: Any) -> list[Update]:
    """The updates of a model as `linchain.methods` makes it, by their modules' names; call it before any training.

    For a PeftModel those of its active adapter, but for what is no matrix (stacks of experts, grouped convolutions). For a
    model that is trained in full those of the linear layers below its head: what adapters on "all-linear" would adapt, and
    a second copy of their weights.
    """
    if not isinstance(model, PeftModel):
        below = set(model.base_model.modules())
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
        return [Full(name, module) for name, module in linear.items() if module in below]
    adapter = model.active_adapter
    moved = moves_base(model.active_peft_config)
    found = [_update(name, layer, adapter, moved) for name, layer in model.get_base_model().named_modules()]
    return [update for update in found if update is not None]


def _update(name: str, layer: Any, adapter: str, moved: bool) -> Update | None:
    if isinstance(layer, BoneLinear) and adapter in layer.bone_block:
        return Blocks(name, layer, adapter)
    if isinstance(layer, MissLinear) and adapter in layer.miss_block:
        return Blocks(name, layer, adapter)
    if not isinstance(layer, LoraLayer) or isinstance(layer, ParamWrapper):
        return None
    if adapter not in layer.lora_A and adapter not in layer.lora_embedding_A:
        return None
    update = (Dora if adapter in layer.lora_magnitude_vector else LowRank)(name, layer, adapter, moved)
    return update if update.multiplies else None


def _chain_parts(chain: HasChain) -> list[Part]:
    names = [f"W{i + 1}" for i in range(len(chain.factors()))]
    if chain.chain_transposed:
        names.reverse()
    if chain.is_stacked:
        return [Part(chain.chain, tuple(names), stacked=True)]
    return [Part(parameter, (name,)) for parameter, name in zip(chain.chain_parameters(), names, strict=True)]


def _folded(factors: dict[str, Tensor]) -> Tensor:
    return fold(factors["A"], [factors[f"W{i}"] for i in range(1, len(factors) - 1)])


def _weight(layer: Any) -> Tensor:
    return float64(dequantize_module_weight(layer.get_base_layer()).detach())
