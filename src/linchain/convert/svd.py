"""Bone and MiSS bat → plain LoRA, approximately: the truncated singular value decomposition of each dense update.

Their update, W·B + B block by block, has full rank, so that a LoRA of rank R is an approximation; of all, the SVD cut at R
is the closest in the Frobenius norm (Eckart & Young, 1936). How close is measured on the factors that are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from linchain.convert.adapter import BASE_PREFIX
from linchain.convert.miss import adapter_blocks, lora_config, replace_blocks
from linchain.errors import LinchainError
from linchain.ops.block_affine import adapted_weight

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel


@dataclass(frozen=True)
class Approximation:
    """How far the LoRA's update B·A is from the adapter's update ΔW.

    Attributes:
        rank: R.
        error: ‖ΔW − B A‖ / ‖ΔW‖, Frobenius norms over all modules together.
        worst: the largest such share of any one module.
        module: that module's name in the base model.
    """

    rank: int
    error: float
    worst: float
    module: str

    def __str__(self) -> str:
        return (
            f"relative error of the update {self.error:.3g} at rank {self.rank} "
            f"(Frobenius norm; {self.worst:.3g} in {self.module}, the worst module)"
        )


@torch.no_grad()
def closest_lora(
    config: PeftConfig, tensors: Mapping[str, Tensor], model: PeftModel, rank: int, dtype: torch.dtype = torch.float32
) -> tuple[LoraConfig, dict[str, Tensor], Approximation]:
    """The closest plain LoRA of rank `rank` to a Bone or MiSS bat adapter, module by module in float64.

    Args:
        config, tensors: The adapter.
        model: The base model with this adapter on it; a quantised base is read dequantised.
        rank: R, at most the smaller side of some adapted weight. Where a module is narrower, its factors are padded with
            zeros.
        dtype: Dtype of the factors.

    Returns:
        (config, tensors, approximation): `lora_alpha` = R; lora_A (R, in), lora_B (out, R); what else the adapter holds is
        carried through.

    Raises LinchainError for a rank that no update has, an update that is not finite, and quantised weights that PEFT
    cannot read.
    """
    form = getattr(config, "form", "col")  # MiSS's bat is bone-col
    layers: dict[str, Any] = {module: model.get_submodule(module) for module in adapter_blocks(tensors)}
    full = max(min(layer.in_features, layer.out_features) for layer in layers.values())
    if rank > full:
        raise LinchainError(f"--svd-rank {rank} is more than any adapted weight has; at rank {full} nothing is lost")
    factors: dict[str, Tensor] = {}
    errors, sizes = {}, {}
    for module, blocks in adapter_blocks(tensors).items():
        update = _dense_update(layers[module], blocks, form)
        if not update.isfinite().all():
            raise LinchainError(f"the adapter's update of {module.removeprefix(BASE_PREFIX)} is not finite")
        a, b = (factor.to(dtype) for factor in truncated(update, rank))
        factors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        errors[module] = float(torch.linalg.norm(update - b.double() @ a.double()))
        sizes[module] = float(torch.linalg.norm(update))
    shares = {module: errors[module] / sizes[module] if sizes[module] else 0.0 for module in errors}
    worst = max(shares, key=lambda module: shares[module])
    total, lost = (math.hypot(*norms.values()) for norms in (sizes, errors))
    found = Approximation(rank, lost / total if total else 0.0, shares[worst], worst.removeprefix(BASE_PREFIX))
    return lora_config(config, rank), replace_blocks(tensors, factors), found


def truncated(update: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A, B) of shapes (rank, in) and (out, rank) whose product B·A is the SVD of `update` (out, in) cut at `rank`.

    Each carries the root of the singular values. From the eigenvectors of the smaller Gram matrix, some times faster than an
    SVD: an error in them only turns the subspace that `update` itself is projected on. In float64 that is no loss.
    """
    if update.shape[0] > update.shape[1]:
        a, b = truncated(update.T, rank)
        return b.T, a.T
    basis = torch.linalg.eigh(update @ update.T).eigenvectors.flip(1)[:, :rank]
    projected = basis.T @ update
    root = torch.linalg.norm(projected, dim=1).sqrt()
    padding = rank - basis.shape[1]
    scaled = projected / root.clamp(min=torch.finfo(root.dtype).tiny).unsqueeze(1)
    a = torch.nn.functional.pad(scaled, (0, 0, 0, padding))
    return a, torch.nn.functional.pad(basis * root, (0, padding))


def _dense_update(layer: Any, blocks: Tensor, form: str) -> Tensor:
    """W' − W of a Bone or MiSS layer, (out, in), float64 on the CPU."""
    try:
        weight = layer.get_base_weight().cpu().double()
    except (NotImplementedError, ValueError, TypeError) as error:
        raise LinchainError(f"--svd-rank needs the base weights, which PEFT cannot read: {error}") from error
    if isinstance(layer.get_base_layer(), Conv1D):
        weight = weight.T
    return adapted_weight(weight, blocks.double(), form) - weight
