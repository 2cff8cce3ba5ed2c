"""How many directions an update ΔW really uses: entropy rank, stable rank and participation ratio.

Computed in float64: from the thin factors where ΔW = B·A, else from the products of ΔW's rows (its Gram matrix), which cost a
tenth of a singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linchain.convert.adapter import adapted_modules, factor_keys
from linchain.convert.fold import fold_adapter
from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from linchain.convert.adapter import AdapterFiles

# The smaller side of a dense matrix up to which all its singular values are taken: about a second a matrix on one core.
WHOLE_SPECTRUM = 2048
# The largest σ² of a matrix of noise, whose neighbours are closest to it, comes out to better than 1e-4 with so many.
LANCZOS_STEPS = 100


@dataclass(frozen=True)
class ModuleRanks:
    """Ranks of one module's update.

    Attributes:
        module: the module's name in the base model.
        rank: inner width r of ΔW = B·A (after folding the narrowest width of the chain), the most the others can reach.
        entropy: `entropy_rank` of ΔW.
        stable: `stable_rank` of ΔW.
        participation: `participation_ratio` of ΔW.
    """

    module: str
    rank: int
    entropy: float
    stable: float
    participation: float


@dataclass(frozen=True)
class Ranks:
    """The spectrum of a matrix and what it says.

    Attributes:
        norm: Frobenius norm.
        entropy: `entropy_rank`; None for a dense matrix whose smaller side is above WHOLE_SPECTRUM, as it takes them all.
        stable: `stable_rank`.
        participation: `participation_ratio`.
        values: all singular values, largest first, float64; None where `entropy` is.
    """

    norm: float
    entropy: float | None
    stable: float
    participation: float
    values: Tensor | None


def entropy_rank(singular_values: Tensor) -> float:
    """exp(H(p)), H(p) = -Σ p ln p, p_i = σ_i / Σ σ: r when all σ are equal, 1 when one is alone, 0 for a zero matrix.

    The effective rank of Roy & Vetterli (2007). p is taken from σ, not σ²: so do the chain's known figures come out
    (about 15.97, 12.8, 10.6 and 9.05 for A·W_1…W_n at the Kaiming start with r = 16, n = 0 … 3, input width 1024; from
    σ² they would be 15.9, 9.7, 7.0 and 5.6).

    Args:
        singular_values: shape (k,), not negative.
    """
    total = singular_values.sum()
    if total == 0:
        return 0.0
    p = singular_values / total
    return float(torch.exp(torch.special.entr(p).sum()))


def stable_rank(singular_values: Tensor) -> float:
    """‖ΔW‖²_F / ‖ΔW‖²_2 = Σ σ² / max σ²; 0 for a zero matrix.

    Args:
        singular_values: shape (k,), not negative.
    """
    largest = singular_values.max()
    return 0.0 if largest == 0 else float((singular_values / largest).square().sum())


def participation_ratio(singular_values: Tensor) -> float:
    """(Σ σ²)² / Σ σ⁴: r when all σ are equal, 1 when one is alone, 0 for a zero matrix.

    Args:
        singular_values: shape (k,), not negative.
    """
    largest = singular_values.max()
    if largest == 0:
        return 0.0
    energies = (singular_values / largest).square()
    return float(energies.sum().square() / energies.square().sum())


def ranks_of(singular_values: Tensor) -> Ranks:
    """All measures of a matrix by its singular values, shape (k,), not negative, largest first."""
    return Ranks(
        float(singular_values.norm()),
        entropy_rank(singular_values),
        stable_rank(singular_values),
        participation_ratio(singular_values),
        singular_values,
    )


def dense_ranks(matrix: Tensor) -> Ranks:
    """All measures of a matrix (out, in) of any rank, on its device; see `Ranks` for what a large one lacks.

    By G = ΔW ΔWᵀ, taken on the smaller side: its eigenvalues are the σ² (σ below 1e-8 of the largest are lost in its rounding).
    For large ones Σσ² is G's trace, Σσ⁴ its squared Frobenius norm, and the largest σ² comes from Lanczos' method.
    """
    wide = float64(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)
    gram = wide @ wide.T
    if len(gram) <= WHOLE_SPECTRUM:
        return ranks_of(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0).cpu())
    energy = float(gram.trace())
    if energy == 0:
        return Ranks(0.0, None, 0.0, 0.0, None)
    return Ranks(energy**0.5, None, energy / _largest_eigenvalue(gram), (energy / float(gram.norm())) ** 2, None)


def _largest_eigenvalue(gram: Tensor) -> float:
    """Of a positive semidefinite matrix, by Lanczos' method from the row of its largest diagonal entry: nothing is drawn."""
    start = gram[gram.diagonal().argmax()]
    basis = (start / start.norm()).unsqueeze(0)
    while len(basis) < min(LANCZOS_STEPS, len(gram)):
        vector = gram @ basis[-1]
        size = vector.norm()
        for _ in range(2):  # once leaves rounding that grows with every step
            vector = vector - basis.T @ (basis @ vector)
        if vector.norm() <= 1e-12 * size:
            break
        basis = torch.cat([basis, (vector / vector.norm()).unsqueeze(0)])
    return float(torch.linalg.eigvalsh(basis @ gram @ basis.T)[-1])


def float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64, on the CPU where its device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def product_singular_values(b: Tensor, a: Tensor) -> Tensor:
    """The singular values of B·A, in float64, largest first, without forming the product.

    With B = Q_b R_b and Aᵀ = Q_a R_a, B·A = Q_b (R_b R_aᵀ) Q_aᵀ, and orthonormal columns change no singular value: an
    SVD of r × r.

    Args:
        b: shape (out, r).
        a: shape (r, in).

    Returns:
        Shape (min(out, r, in),), float64.
    """
    r_b = torch.linalg.qr(b.double(), mode="r").R
    r_a = torch.linalg.qr(a.double().T, mode="r").R
    return torch.linalg.svdvals(r_b @ r_a.T)


def adapter_ranks(adapter: AdapterFiles) -> list[ModuleRanks]:
    """Ranks of every module's ΔW of a LinChain or plain LoRA adapter, the chain folded in. The scale changes no rank.

    Convolutions count as the matrix (out, in · kernel). Modules whose factors do not multiply to one matrix (grouped
    convolutions, stacks of experts) are left out.
    """
    config, tensors = adapter.peft_config(), adapter.tensors
    if isinstance(config, LinChainConfig):
        _, tensors = fold_adapter(config, tensors)
    ranks = []
    for module in adapted_modules(tensors):
        a, b = (tensors[key].flatten(1) for key in factor_keys(module, tensors))
        if b.shape[1] != a.shape[0]:
            continue
        values = product_singular_values(b, a)
        measures = entropy_rank(values), stable_rank(values), participation_ratio(values)
        ranks.append(ModuleRanks(module.removeprefix("base_model.model."), a.shape[0], *measures))
    return ranks
