"""The two tables of the contract: methods, and the layers that they adapt. Every test of the suite runs on their product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain import BoneConfig, LinChainConfig, methods
from linchain.methods.apply import moves_base


@dataclass(frozen=True)
class Method:
    """A method under contract: how its adapter is made, and what it does not do (with the words of the refusal).

    `random` makes every parameter of the adapter random, so that the adapter is no identity; `prefix` is how PEFT knows
    the adapter's parameters by name; `layers` are the kinds of layer that it is under contract with, all where empty.
    """

    name: str
    config_cls: type[PeftConfig]
    options: dict[str, Any]
    refuses: dict[str, str] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=lambda: {"init_lora_weights": False})
    prefix: str = "lora_"
    layers: tuple[str, ...] = ()
    moves_base = False
    frozen: str | None = None

    def config(self, **common: Any) -> PeftConfig:
        return self.config_cls(**{**self.options, **common})

    def adapt(self, model: nn.Module, x: Tensor, *, random: bool, **options: Any) -> PeftModel:
        """`model` with an adapter as users start it, or with one that is random."""
        start = self.random if random else dict.fromkeys(self.random, True)
        return get_peft_model(model, self.config(**{**start, **options}))


class Catalogued(Method):
    """A method of the catalogue, adapted as `linchain train` does it, and made random afterwards."""

    @property
    def moves_base(self) -> bool:  # type: ignore[override]
        """Whether the start is taken out of the base weight (in float32)."""
        return moves_base(self.config())

    def config(self, **common: Any) -> PeftConfig:
        config = methods.get(self.name).peft_config(self.options, **common)
        assert config is not None
        return config

    def adapt(self, model: nn.Module, x: Tensor, *, random: bool, **options: Any) -> PeftModel:
        method: Any = methods.get(self.name)
        dtype = x.dtype
        if self.moves_base and dtype == torch.float64:  # PEFT decomposes weights in float32 at most
            model, x = model.float(), x.float()
        adapted = method.adapt(model, self.options, lambda _: model(x).square().sum().backward(), **options)
        if model.head.weight.dtype != dtype:
            adapted = adapted.to(dtype)
        for parameter in adapted.parameters():
            if random and parameter.requires_grad:
                nn.init.normal_(parameter, std=0.5)
        return adapted


def _catalogued(method: methods.Method) -> Catalogued:
    """On linear layers: the tuners' own rows of the table cover the others."""
    options = {"r": 4, "lora_alpha": 8} if "lora_alpha" in method.options else {"r": 4}
    prefix = {"bone": "bone_", "miss": "miss_"}.get(method.name[:4], "lora_")
    return Catalogued(method.name, PeftConfig, options, {}, {}, prefix, ("linear",), method.frozen)


def _bone(form: str) -> Method:
    not_linear = ("embedding", "conv1d", "conv2d", "conv3d", "attention")
    refuses = dict.fromkeys(not_linear, "Bone adapts linear layers")
    refuses |= dict.fromkeys(("parameter", "experts"), "target_parameters")
    return Method(f"{form}-bone", BoneConfig, {"r": 4, "form": form}, refuses, {"init_weights": False}, "bone_")


METHODS = [
    Method("lora-layers", LoraConfig, {"r": 4, "lora_alpha": 8}),
    Method("linchain-0", LinChainConfig, {"r": 4, "lora_alpha": 8, "chain_length": 0}),
    Method("linchain-1", LinChainConfig, {"r": 4, "lora_alpha": 8, "chain_length": 1}),
    Method("linchain-3", LinChainConfig, {"r": 4, "lora_alpha": 8, "chain_length": 3}),
    Method(
        "orthogonal-3",
        LinChainConfig,
        {"r": 4, "lora_alpha": 8, "chain_length": 3, "init_weights": "orthogonal"},
    ),
    Method("identity-2", LinChainConfig, {"r": 4, "lora_alpha": 8, "chain_length": 2, "init_weights": "identity"}),
    Method("rslora-2", LinChainConfig, {"r": 4, "lora_alpha": 8, "chain_length": 2, "use_rslora": True}),
    Method("linchain-4-8-4", LinChainConfig, {"chain_widths": [4, 8, 4], "lora_alpha": 8}),
    Method("linchain-4-6-2", LinChainConfig, {"chain_widths": [4, 6, 2], "lora_alpha": 8}),
    Method(
        "dora-2",
        LinChainConfig,
        {"r": 4, "lora_alpha": 8, "chain_length": 2, "use_dora": True},
        refuses={
            "attention": "does not support DoRA",
            "parameter": "does not work with use_dora",
            "experts": "does not work with use_dora",
        },
    ),
    _bone("col"),
    _bone("row"),
    _bone("plain"),
    # all but full fine-tuning, which has no adapter
    *(_catalogued(method) for method in methods.catalogue() if method.config is not None),
]


class _Net(nn.Module):
    """A layer to adapt, then something that is not adapted."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)))


class _ConvNet(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)).flatten(2).mean(-1))


class _AttentionNet(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x, x, x)[0]))


class _Experts(nn.Module):
    """A stack of weights (experts, in, out), as in mixture-of-experts layers: adapted through `target_parameters`."""

    is_transposed = True

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(*shape) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.stack).mean(0) if self.stack.dim() == 3 else x @ self.stack.T


@dataclass(frozen=True)
class Layer:
    """A kind of layer under contract.

    `delta` maps (A, factors, B) to a low-rank update of a base weight, scale left out: the reference. `weights` names each
    adapted base weight, with the prefix of its adapter's parameters.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    delta: Callable[[Tensor, list[Tensor], Tensor], Tensor]
    weights: dict[str, str] = field(default_factory=lambda: {"weight": ""})
    targets: dict[str, Any] = field(default_factory=lambda: {"target_modules": ["layer"]})

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(0)
        return self.build().to(dtype)

    def sample(self, dtype: torch.dtype = torch.float64) -> Tensor:
        torch.manual_seed(1)
        x = self.inputs()
        return x.to(dtype) if x.is_floating_point() else x


def _linear_delta(a: Tensor, factors: list[Tensor], b: Tensor) -> Tensor:
    """B M A over any trailing kernel dimensions of A; B's own are of size 1."""
    for factor in factors:
        a = torch.einsum("sr,r...->s...", factor, a)
    return torch.einsum("or,r...->o...", b.flatten(1), a)


def _experts_delta(a: Tensor, factors: list[Tensor], b: Tensor) -> Tensor:
    """PEFT stacks A's experts in rows, B's interleaved in columns; each expert has its own chain."""
    experts = 3
    b = b.reshape(b.shape[0], -1, experts)
    a = a.reshape(experts, -1, a.shape[-1])
    deltas = [_linear_delta(a[e], [factor[e] for factor in factors], b[..., e]).T for e in range(experts)]
    return torch.stack(deltas)


LAYERS = [
    Layer("linear", lambda: _Net(nn.Linear(12, 8), 8), lambda: torch.randn(5, 4, 12), _linear_delta),
    Layer("Conv1D", lambda: _Net(Conv1D(8, 12), 8), lambda: torch.randn(5, 12), lambda *f: _linear_delta(*f).T),
    Layer(
        "embedding",
        lambda: _Net(nn.Embedding(11, 7), 7),
        lambda: torch.randint(11, (5, 4)),
        lambda *f: _linear_delta(*f).T,
    ),
    Layer("conv1d", lambda: _ConvNet(nn.Conv1d(5, 6, 3), 6), lambda: torch.randn(5, 5, 9), _linear_delta),
    Layer("conv2d", lambda: _ConvNet(nn.Conv2d(5, 6, 3), 6), lambda: torch.randn(5, 5, 8, 8), _linear_delta),
    Layer("conv3d", lambda: _ConvNet(nn.Conv3d(3, 6, 2), 6), lambda: torch.randn(5, 3, 4, 4, 4), _linear_delta),
    Layer(
        "attention",
        lambda: _AttentionNet(nn.MultiheadAttention(8, 2, batch_first=True), 8),
        lambda: torch.randn(5, 4, 8),
        _linear_delta,
        weights={"in_proj_weight": "", "out_proj.weight": "base_layer.out_proj."},
    ),
    Layer(
        "parameter",
        lambda: _Net(_Experts(7, 10), 7),
        lambda: torch.randn(5, 10),
        _linear_delta,
        weights={"stack": ""},
        targets={"target_modules": [], "target_parameters": ["layer.stack"]},
    ),
    Layer(
        "experts",
        lambda: _Net(_Experts(3, 10, 7), 7),
        lambda: torch.randn(5, 10),
        _experts_delta,
        weights={"stack": ""},
        targets={"target_modules": [], "target_parameters": ["layer.stack"]},
    ),
]
