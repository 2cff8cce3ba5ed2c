"""What LinChain adds to PEFT's LoRA layers.

PEFT's dispatcher builds its own layer for a target (linear, quantised, convolution, …); `add_chain_to` then turns that
layer's class into (ours, PEFT's). A layer's forward calls the module at `lora_A[adapter]`, which applies the chain; what
PEFT computes from `lora_A[adapter].weight` directly (ΔW, merging, DoRA's norm) runs with the chain folded into that weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import layer as lora
from torch import Tensor, nn

from linchain.ops.adapted_linear import adapted_linear, add_update
from linchain.ops.chain import LOW_PRECISION
from linchain.ops.factors import Factors, ready
from linchain.ops.precision import product_dtype
from linchain.tuners.base_output import base_output, has_hooks, may_read_weight
from linchain.tuners.linchain.chain import Chain, ChainedA, _rebuild, chained_class
from linchain.tuners.linchain.config import LinChainConfig
from linchain.tuners.linchain.remembered import Remembers

# What the mixins below are mixed into: any of PEFT's layers. Not a common ancestor with them, because Python lets an object
# change its class only between classes of one layout; Any, because the type checker cannot know which layer it will be.
_LoraLayer: Any = object

# Classes of an A that may be read. Not asked for in the forward: a compiler calls a cached function anew.
_PLAIN_A = (nn.Linear, chained_class(nn.Linear))


class LinChainLayer(_LoraLayer):
    """Mixin for PEFT's layers whose A is a module: linear layers, quantised ones, convolutions, attention, parameters."""

    def update_layer(self, adapter_name: str, r: int, *args: Any, config: LinChainConfig, **kwargs: Any) -> None:
        super().update_layer(adapter_name, r, *args, config=config, **kwargs)
        self.add_chain(adapter_name, config)

    def add_chain(self, adapter_name: str, config: LinChainConfig) -> None:
        """Put the chain behind A, and fit B to the chain's last width."""
        widths = config.widths(self.r[adapter_name])
        if len(widths) == 1:
            return
        a = _as_chained(self.lora_A[adapter_name])
        a.experts = getattr(self, "num_experts", 1)
        a.add_chain(widths, config.init_weights, like=a.weight, drawn=a.weight, experts=a.experts)
        if widths[-1] != widths[0]:
            _fit_input_width(self.lora_B[adapter_name], widths[0], widths[-1], random=config.init_lora_weights is False)
        self._settle_dora(adapter_name, config)

    def _settle_dora(self, adapter_name: str, config: LinChainConfig) -> None:
        """DoRA's magnitude starts as the norm of W + ΔW; PEFT took it before there was a chain."""
        if adapter_name not in self.lora_variant:
            return
        if not isinstance(self.get_base_layer(), nn.Linear):
            self.lora_variant[adapter_name] = _FoldedVariant(self.lora_variant[adapter_name])
        if config.init_lora_weights is not False or next(self.lora_magnitude_vector[adapter_name].parameters()).is_meta:
            return
        trainable = self.lora_magnitude_vector[adapter_name].weight.requires_grad
        with self.folded(adapter_name):
            self.lora_variant[adapter_name].init(self, adapter_name=adapter_name, config=config)
        self.lora_magnitude_vector[adapter_name].weight.requires_grad_(trainable)

    @contextmanager
    def folded(self, adapter_name: str, *, wide: bool = False) -> Iterator[None]:
        """Within it `lora_A[adapter].weight` is W_n … W_1 A, in A's dtype, or `wide`: both A and B in float32 or wider."""
        if not isinstance(self.lora_A[adapter_name], ChainedA):
            yield
            return
        a, b = self.lora_A[adapter_name], self.lora_B[adapter_name]
        weight = a.folded_weight()
        self.lora_A[adapter_name] = _plain_twin(a, weight if wide else weight.to(a.weight.dtype))
        self.lora_B[adapter_name] = _plain_twin(b, b.weight.to(weight.dtype) if wide else b.weight)
        try:
            yield
        finally:
            self.lora_A[adapter_name], self.lora_B[adapter_name] = a, b

    def get_delta_weight(self, adapter: str, *args: Any, **kwargs: Any) -> Tensor:
        """ΔW = s · B W_n … W_1 A in the shape of the base weight and in B's dtype; multiplied in float32 or wider."""
        dtype = self.lora_B[adapter].weight.dtype
        with self.folded(adapter, wide=True):
            delta = super().get_delta_weight(adapter, *args, **kwargs)
        return delta.to(dtype) if dtype in LOW_PRECISION else delta

    def __repr__(self) -> str:
        return super().__repr__().replace("lora.", "linchain.", 1)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (linchain_class, type(self).__bases__[1]), self.__getstate__()


class LinChainLinear(Remembers, LinChainLayer):
    """Mixin for plain linear layers: their forward keeps x once, in its own dtype, and makes no second output."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or kwargs:
            return super().forward(x, *args, **kwargs)
        lora_a, adapters = self.lora_A, []
        for name in self.active_adapters:
            if name in lora_a:
                if (adapter := self._plain_adapter(name)) is None:
                    return super().forward(x, *args, **kwargs)
                adapters.append(adapter)
        if not adapters:
            return super().forward(x, *args)
        base = self.base_layer
        if not args and may_read_weight(base, x):
            first, *adapters = adapters
            y = adapted_linear(x, base.weight, base.bias, self._factors(first, x, product_dtype(x)), first.dropout)
        else:
            y = base_output(self, x, *args)
        for adapter in adapters:
            y = add_update(y, x, self._factors(adapter, x, y.dtype), adapter.dropout)
        return y

    def _plain_adapter(self, name: str) -> _PlainAdapter | None:
        """The adapter where A and B may be read instead of called: no hooks (sharding is made of them), no bias, no DoRA."""
        a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        if (
            type(a) in _PLAIN_A
            and type(b) is nn.Linear
            and b.bias is None
            and type(dropout) in (nn.Identity, nn.Dropout)
            and name not in self.lora_variant
            and self.cast_input_dtype_enabled
            and not has_hooks(a, b, dropout)
        ):
            p = dropout.p if dropout.training and type(dropout) is nn.Dropout else 0.0
            chain = a.chain_tensors() if isinstance(a, ChainedA) else ()
            return _PlainAdapter(name, Factors(a.weight, b.weight, self.scaling[name], *chain), p)
        return None

    def _factors(self, adapter: _PlainAdapter, x: Tensor, dtype: torch.dtype) -> Factors:
        """The adapter's parameters; for a generated token, two factors in `dtype` that were made for the prompt."""
        factors = adapter.factors
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return factors
        parameters = (factors.a, factors.b, *factors.chain)
        return self.remembered(
            x, (adapter.name, dtype), parameters, lambda: Factors(*ready(factors, dtype)[:2]), factors.scaling
        )

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.forget()


class _PlainAdapter(NamedTuple):
    name: str
    factors: Factors
    dropout: float


class LinChainParamWrapper(LinChainLayer):
    """Mixin for `target_parameters`: each expert of a stack has a chain of its own."""

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor, float]:
        """(lhs, rhs, s) with ΔW = s · lhs @ rhs, shapes (experts, ·, r_n) and (experts, r_n, ·), the chain folded in."""
        with self.folded(adapter_name):
            return super().get_delta_factors(adapter_name)


class LinChainEmbedding(LinChainLayer):
    """Mixin for embeddings, where A (r_0, num_embeddings) and B (dim, r_n) are bare parameters.

    The chain is a module of its own, at `lora_embedding_chain[adapter]`.
    """

    adapter_layer_names = (*lora.LoraLayer.adapter_layer_names, "lora_embedding_chain")

    def add_chain(self, adapter_name: str, config: LinChainConfig) -> None:
        if not hasattr(self, "lora_embedding_chain"):
            self.lora_embedding_chain = nn.ModuleDict()
        widths = config.widths(self.r[adapter_name])
        if len(widths) == 1:
            return
        chain = Chain()
        a, b = self.lora_embedding_A[adapter_name], self.lora_embedding_B[adapter_name]
        chain.add_chain(widths, config.init_weights, like=a, drawn=b)  # here A starts at zero and B at random
        self.lora_embedding_chain[adapter_name] = chain
        if widths[-1] != widths[0]:
            fitted = torch.randn(b.shape[0], widths[-1], dtype=b.dtype, device=b.device)
            self.lora_embedding_B[adapter_name] = nn.Parameter(fitted, requires_grad=b.requires_grad)
        self._settle_dora(adapter_name, config)

    @contextmanager
    def folded(self, adapter_name: str) -> Iterator[None]:  # type: ignore[override]
        """Within it `lora_embedding_A[adapter]` is W_n … W_1 A, in A's dtype."""
        if adapter_name not in self.lora_embedding_chain:
            yield
            return
        table, a = self.lora_embedding_A, self.lora_embedding_A[adapter_name]
        parameters: Any = table._parameters
        # ParameterDict would make a new leaf of what is put into it; an attribute keeps the gradient
        table._parameters = {name: p for name, p in parameters.items() if name != adapter_name}
        chain: Any = self.lora_embedding_chain[adapter_name]
        object.__setattr__(table, adapter_name, chain.folded(a).to(a.dtype))
        try:
            yield
        finally:
            object.__delattr__(table, adapter_name)
            table._parameters = parameters

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW = s · (B W_n … W_1 A)ᵀ, shape (num_embeddings, dim), in A's dtype."""
        with self.folded(adapter):
            return super(LinChainLayer, self).get_delta_weight(adapter)

    def _adapter_output(self, x: Tensor, adapter: str) -> Tensor:
        h = self._embed(x, self.lora_embedding_A[adapter].T)
        if adapter in self.lora_embedding_chain:
            h = self.lora_embedding_chain[adapter](h)
        output = (h @ self.lora_embedding_B[adapter].T) * self.scaling[adapter]
        # some embeddings (Gemma's) scale their output; what is added to it must be scaled alike
        scale = self._get_embed_scale()
        return output if scale is None else output * scale.to(output.dtype)

    def _mixed_batch_forward(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        for adapter in set(adapter_names):
            if adapter in self.lora_embedding_A:
                rows = [i for i, name in enumerate(adapter_names) if name == adapter]
                result[rows] += self._adapter_output(x[rows], adapter)
        return result

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or kwargs.get("adapter_names") is not None:
            return super().forward(x, *args, **kwargs)
        kwargs.pop("adapter_names", None)
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for adapter in self.active_adapters:
            if adapter not in self.lora_embedding_A:
                continue
            if adapter in self.lora_variant:
                result = self.lora_variant[adapter].forward(self, active_adapter=adapter, x=x, result=result)
            else:
                result = result + self._adapter_output(x, adapter)
        return result.to(dtype)


class _FoldedVariant:
    """PEFT's DoRA for convolutions and embeddings, which reads A's weight in its forward: with the chain folded into it."""

    def __init__(self, variant: Any) -> None:
        self.variant = variant

    def forward(self, module: Any, active_adapter: str, **kwargs: Any) -> Tensor:
        with module.folded(active_adapter):
            return self.variant.forward(module, active_adapter=active_adapter, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "variant":  # not set yet: while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.variant, name)


def _plain_twin(module: Any, weight: Tensor) -> nn.Module:
    """A linear layer or convolution like `module`, but without a chain and with `weight`, which keeps its gradient."""
    base = type(module).__bases__[1] if isinstance(module, ChainedA) else type(module)
    twin: Any = object.__new__(base)
    twin.__dict__.update(module.__dict__)
    twin._parameters = {name: p for name, p in module._parameters.items() if name == "bias"}
    twin.weight = weight
    return twin


@cache
def linchain_class(base: Any) -> type:
    """LinChain's class for one of PEFT's LoRA layer classes."""
    mixin: type = LinChainLayer
    if issubclass(base, lora.Embedding):
        mixin = LinChainEmbedding
    elif issubclass(base, lora.ParamWrapper):
        mixin = LinChainParamWrapper
    elif base is lora.Linear:
        mixin = LinChainLinear
    # PEFT recognises some layers by their class's name
    return type(base.__name__, (mixin, base), {"__module__": __name__})


def add_chain_to(layer: Any, adapter_name: str, config: LinChainConfig) -> None:
    """Turn a freshly built LoRA layer into a LinChain layer and give its adapter a chain."""
    if isinstance(layer, lora.MultiheadAttention):
        # PEFT adapts the output projection through a layer of its own inside
        add_chain_to(layer.base_layer.out_proj, adapter_name, config)
    layer.__class__ = linchain_class(layer.__class__)
    layer.add_chain(adapter_name, config)


def tie_chain(head: Any, embedding: Any, adapter_name: str) -> None:
    """Give an output embedding that PEFT tied to the input embedding (A = B_embᵀ, B = A_embᵀ) the transposed chain."""
    if adapter_name not in embedding.lora_embedding_chain:
        return
    a = _as_chained(head.lora_A[adapter_name])
    a.share_chain(embedding.lora_embedding_chain[adapter_name])


def _as_chained(a: Any) -> ChainedA:
    a.__class__ = chained_class(a.__class__)
    return a


@torch.no_grad()
def _fit_input_width(b: Any, old: int, new: int, *, random: bool) -> None:
    """Give B, a linear layer or convolution of rank `old`, the rank `new`: zero, or random where B starts random."""
    shape = list(b.weight.shape)
    shape[1] = shape[1] * new // old
    b.weight = nn.Parameter(b.weight.new_zeros(shape), requires_grad=b.weight.requires_grad)
    width_name = "in_features" if isinstance(b, nn.Linear) else "in_channels"
    setattr(b, width_name, getattr(b, width_name) * new // old)
    if random and not b.weight.is_meta:
        b.reset_parameters()
