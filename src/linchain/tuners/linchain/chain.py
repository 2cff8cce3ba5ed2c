"""The modules that own a chain's parameters.

A square chain is one stacked parameter `chain` of shape (r, n, r); a chain of other widths is `chain_0` … `chain_{n-1}`, one
parameter a matrix. For linear and convolution layers they lie beside A in the module at `lora_A[adapter]`, so that a module
reads only its own parameters (FSDP, ZeRO) and that checkpoint keys have PEFT's shape `…lora_A.<adapter>.<leaf>`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linchain.ops import fold, unstack
from linchain.tuners.linchain.remembered import Remembers


def _kaiming(matrix: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)


_INITS: dict[Any, Callable[[Tensor, torch.Generator], Tensor]] = {
    True: _kaiming,
    "kaiming": _kaiming,
    "orthogonal": lambda matrix, generator: nn.init.orthogonal_(matrix, generator=generator),
    "identity": lambda matrix, generator: nn.init.eye_(matrix),
    False: _kaiming,
}


class HasChain(Remembers, nn.Module):
    """A module with the matrices W_1 … W_n of one adapter's chain.

    Parameters, with leading dimensions e = (experts,) where a module adapts a stack of experts, else ():
        chain: (*e, r, n, r), W_i being chain[…, i-1, :], or
        chain_i: (*e, widths[i + 1], widths[i]), i = 0 … n-1.
    """

    chain: Tensor
    chain_names: tuple[str, ...]
    # A tied output embedding applies its input embedding's chain transposed and backwards.
    chain_transposed = False

    def add_chain(self, widths: Sequence[int], init: bool | str, like: Tensor, drawn: Tensor, experts: int = 1) -> None:
        """Create and initialise the chain's parameters on `like`'s device and in its dtype.

        `drawn` is a factor that was drawn at random for the same adapter. The chain's numbers follow from its values, not
        from the global generator: at an equal seed, LinChain and LoRA start with equal A and B.
        """
        e = (experts,) if experts > 1 else ()
        n = len(widths) - 1
        shapes = [(*e, widths[i + 1], widths[i]) for i in range(n)]
        if len(set(widths)) == 1:
            self._add_parameter("chain", (*e, widths[0], n, widths[0]), like)
            self.chain_names = ("chain",)
        else:
            self.chain_names = tuple(f"chain_{i}" for i in range(n))
            for name, shape in zip(self.chain_names, shapes, strict=True):
                self._add_parameter(name, shape, like)
        if like.device.type != "meta":
            seed = zlib.crc32(drawn.detach().flatten()[:1024].float().cpu().numpy().tobytes())
            self._reset_chain(init, torch.Generator().manual_seed(seed))

    def _add_parameter(self, name: str, shape: tuple[int, ...], like: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(like.detach().new_empty(shape), requires_grad=like.requires_grad))

    def share_chain(self, other: HasChain) -> None:
        """Use `other`'s parameters, for the transposed of its map (tied embeddings)."""
        self.chain_names = other.chain_names
        self.chain_transposed = True
        for name in other.chain_names:
            self.register_parameter(name, getattr(other, name))

    @torch.no_grad()
    def _reset_chain(self, init: bool | str, generator: torch.Generator) -> None:
        for factor in self.factors():
            # drawn in float32: bfloat16 has no QR, and a start should not depend on the dtype it is stored in
            draw = torch.empty(factor.shape, dtype=torch.promote_types(factor.dtype, torch.float32))
            for matrix in draw.view(-1, *factor.shape[-2:]):
                _INITS[init](matrix, generator)
            factor.copy_(draw)

    def factors(self) -> list[Tensor]:
        """W_1 … W_n in the order in which they are applied, W_i of shape (*e, r_i, r_{i-1})."""
        factors = unstack(self.chain) if self.is_stacked else self.chain_parameters()
        return [factor.mT for factor in reversed(factors)] if self.chain_transposed else factors

    def chain_tensors(self) -> tuple[list[Tensor], bool]:
        """The chain as `linchain.ops.factors` takes it: its one parameter, stacked, where that is it, else `factors`."""
        return ([self.chain], True) if self.is_stacked and not self.chain_transposed else (self.factors(), False)

    def chain_parameters(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.chain_names]

    @property
    def is_stacked(self) -> bool:
        return self.chain_names == ("chain",)


class Chain(HasChain):
    """A chain on its own, for embeddings, whose A is no module: h (…, r_0) → h W_1ᵀ … W_nᵀ (…, r_n)."""

    def forward(self, h: Tensor) -> Tensor:
        return F.linear(h, self.remembered(h, h.dtype, self.chain_parameters(), lambda: self._product().to(h.dtype)))

    def _product(self) -> Tensor:
        first, *rest = self.factors()
        return fold(first, rest)

    def folded(self, a: Tensor) -> Tensor:
        """W_n … W_1 A for A of shape (r_0, num_embeddings): (r_n, num_embeddings), float32 or wider."""
        return fold(a, self.factors())


class ChainedA(HasChain):
    """Mixin for the linear or convolution module at `lora_A[adapter]`: its map becomes x ↦ (W_n … W_1 A) x.

    `weight` stays A, of shape (experts·r_0, in) for linear layers and (r_0, in, *kernel) for convolutions.
    """

    weight: Tensor
    experts = 1

    def folded_weight(self) -> Tensor:
        """W_n … W_1 A in float32 or wider, shaped as `weight` with r_n in r_0's place."""
        a = self.weight
        if self.experts > 1:
            return fold(a.unflatten(0, (self.experts, -1)), self.factors()).flatten(0, 1)
        if a.dim() == 2:
            return fold(a, self.factors())
        return fold(a.flatten(1), self.factors()).unflatten(1, a.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        parameters = [self.weight, *self.chain_parameters()]
        weight = self.remembered(x, None, parameters, lambda: self.folded_weight().to(self.weight.dtype))
        if weight.dim() == 2:
            return F.linear(x, weight)
        return self._conv_forward(x, weight, None)  # type: ignore[operator]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (chained_class, type(self).__bases__[1]), self.__getstate__()


@cache
def chained_class(base: Any) -> type:
    """The class of a `base` module (nn.Linear, nn.Conv2d, …) that holds A and a chain."""
    return type(f"Chained{base.__name__}", (ChainedA, base), {"__module__": __name__})


def _rebuild(make: Callable[[type], type], base: type) -> object:
    """Pickle's way back to an object of a class that was made at run time."""
    return object.__new__(make(base))


def has_chain(model: nn.Module) -> bool:
    """Whether any module of `model` holds a chain."""
    return any(isinstance(module, HasChain) for module in model.modules())
