"""An adapted model computed the plain way: base weights plus dense updates, in one functional call."""

from __future__ import annotations

import math

import torch
from peft import MissConfig, PeftConfig
from torch import Tensor, nn
from torch.func import functional_call

from linchain import BoneConfig
from linchain.methods.apply import moves_base
from linchain.ops import reference

from .cases import Layer


def adapter_parameters(adapted: nn.Module, prefix: str, adapter: str = "default") -> dict[str, Tensor]:
    """A, B, magnitude and the chain's leaves of one adapted weight, by short name."""
    found = {}
    for name, parameter in adapted.named_parameters():
        if not name.startswith(f"{prefix}lora_") or f".{adapter}" not in name:
            continue
        kind, _, leaf = name.removeprefix(prefix).partition(f".{adapter}")
        short = {"lora_embedding_A": "A", "lora_embedding_B": "B", "lora_A": "A", "lora_B": "B"}.get(kind, kind)
        leaf = leaf.removeprefix(".")
        found[leaf if leaf.startswith("chain") else short] = parameter
    return found


def factors_of(parameters: dict[str, Tensor]) -> list[Tensor]:
    if "chain" in parameters:
        return list(parameters["chain"].unbind(-2))
    return [parameters[f"chain_{i}"] for i in range(len(parameters)) if f"chain_{i}" in parameters]


def scaling_of(config: PeftConfig) -> float:
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


_BLOCKS = {
    "col": reference.bone_col_weight,
    "row": reference.bone_row_weight,
    "plain": reference.bone_plain_weight,
}


def block_weight(
    layer: Layer, base: nn.Module, adapted: nn.Module, config: BoneConfig | MissConfig
) -> dict[str, Tensor]:
    """A linear layer's weight as Bone or MiSS moves it."""
    if isinstance(config, MissConfig):
        form, name = ("col" if config.init_weights == "bat" else "plain"), "miss_block"
    else:
        form, name = config.form, "bone_block"
    w, block = base.get_parameter("layer.weight").detach(), adapted.get_parameter(f"{name}.default")
    return {"layer.weight": _BLOCKS[form](w.T, block).T if layer.name == "Conv1D" else _BLOCKS[form](w, block)}


def reference_weights(layer: Layer, base: nn.Module, adapted: nn.Module, config: PeftConfig) -> dict[str, Tensor]:
    """Each adapted base weight with its dense update, differentiable in the adapter's parameters."""
    if isinstance(config, BoneConfig | MissConfig):
        return block_weight(layer, base, adapted, config)
    weights = {}
    for name, prefix in layer.weights.items():
        parameters = adapter_parameters(adapted, prefix)
        w = base.get_parameter(f"layer.{name}").detach()
        if moves_base(config):
            w = adapted.get_parameter(f"base_layer.{name}").detach()
        delta = scaling_of(config) * layer.delta(parameters["A"], factors_of(parameters), parameters["B"])
        if name == "out_proj.weight":
            # PEFT 0.21 merges attention's output projection twice, the second time without gradient. We inherit it, so
            # that a folded chain gives the same logits in plain PEFT (docs/decisions.md).
            delta = delta + delta.detach()
        new = w + delta
        if magnitude := [p for key, p in parameters.items() if "magnitude" in key]:
            # DoRA's norm runs over the input features, and has no gradient
            outputs_last = layer.name in ("Conv1D", "embedding")
            rows = new.T if outputs_last else new
            norm = rows.flatten(1).norm(dim=1).detach()
            factor = (magnitude[0].flatten() / norm).reshape(-1, *[1] * (new.dim() - 1))
            new = (rows * factor).T if outputs_last else rows * factor
        weights[f"layer.{name}"] = new
    return weights


def reference_output(layer: Layer, base: nn.Module, adapted: nn.Module, config: PeftConfig, x: Tensor) -> Tensor:
    return functional_call(base, reference_weights(layer, base, adapted, config), (x,))


def gradients(output: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(2)
    grads = torch.autograd.grad(
        (output * torch.randn_like(output)).sum(), parameters, allow_unused=True, retain_graph=True
    )
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
