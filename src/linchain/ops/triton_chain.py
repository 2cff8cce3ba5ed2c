"""A linear layer's factors, forward and backward, in one GPU kernel each (Triton; `triton_kernels` holds the kernels).

PyTorch needs about n launches to fold a chain and 3n for its gradients, each a few microseconds long and each almost without
work: n r×r matrices, A and B. Here the number of launches is one each way, whatever n is.

    forward:   A' = s · W_n … W_1 A and B' = B, each rounded once to the dtype of the layer's products
    backward:  dA = s Mᵀ dA',  dW_i = (W_n … W_{i+1})ᵀ dM P_{i-1}ᵀ,  dB = dB',  with dM = s dA' Aᵀ,
               P_i = W_i … W_1 and M = P_n (LinChain, arXiv 2411.00039, eqs. 9–11 with the order put right)

All sums are float32, never TF32, and in a fixed order: the same inputs give the same bits. `usable` says whether these kernels
may serve; the environment variable LINCHAIN_TRITON=0 switches them off. Without triton this module imports, and says no.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from linchain.ops.chain import fold_backward, prefixes, scaled_product, unstack

SWITCH = "LINCHAIN_TRITON"
MAX_RANK = 128
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# For ranks up to the key: columns of A that a program takes at a time, slice of a product's summed side, warps a program, and
# parts of dM that are being read at a time. Compiled for sm_80 and sm_90, nothing spills and 32 KiB of shared memory do.
_SHAPES = {16: (64, 16, 4, 16), 32: (32, 32, 4, 8), 64: (32, 32, 8, 4), 128: (32, 16, 8, 1)}
# Numbers that a program copies.
_BLOCK = 2048
# Programs that share dM: enough to read A and dA' at once, few enough that the last one soon has added up their parts.
_PARTS = 64

# Kernels launched so far in this process, for those who count operations.
launches = 0

# Whether the kernels work, by device.
_verdicts: dict[torch.device, bool] = {}


def usable(a: Tensor, chain: Tensor | None, b: Tensor) -> bool:
    """Whether `forward` and `backward` can serve these masters, on this machine.

    They are plain dense tensors on one CUDA device (on any where Triton's interpreter is on, TRITON_INTERPRET=1), of rank 128
    at most, in float32, bfloat16 or float16. The first question for a device runs the kernels once and compares: where they
    do not run or do not agree with PyTorch, a warning gives the reason, and the answer for that device stays no.

    Args:
        a: A, (r, in); a batch of them (experts) is not served.
        chain: (r, n, r), or None for n = 0.
        b: (out, r).
    """
    device = a.device
    return (
        (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
        and os.environ.get(SWITCH) != "0"
        and a.ndim == 2
        and a.shape[0] <= MAX_RANK
        and _served(a, device)
        and _served(b, device)
        and (chain is None or _served(chain, device))
        and _works(device)
    )


def forward(
    a: Tensor, chain: Tensor | None, b: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A' and B', in one launch.

    Args:
        a: A, (r, in), 1 ≤ r ≤ 128, in float32, bfloat16 or float16, as `chain` and `b`.
        chain: W_1 … W_n stacked, (r, n, r), n ≥ 1; or None.
        b: B, (out, r).
        scale: s.
        dtype: That of A' and B': float32, bfloat16 or float16.

    Returns:
        A' = s · W_n … W_1 A, (r, in); B' = B, (out, r); and what `backward` wants, None without a chain: float32
        (n·r² + 1,), the prefixes P_1 … P_n one after the other, then a counter.
    """
    r, in_features = a.shape
    a, b = a.contiguous(), b.contiguous()
    a_out, b_out = torch.empty_like(a, dtype=dtype), torch.empty_like(b, dtype=dtype)
    block_in, block_k, warps, _ = _SHAPES[_padded(r)]
    if chain is None:
        n, kept, a_programs = 0, None, _ceil(a.numel(), _BLOCK)
    else:
        chain, n = chain.contiguous(), chain.shape[1]
        kept = torch.empty(n * r * r + 1, dtype=torch.float32, device=a.device)
        a_programs = max(1, _ceil(in_features, block_in))
    grid = (a_programs + _ceil(b.numel(), _BLOCK),)
    sizes = {"R": r, "RP": _padded(r), "BLOCK_K": block_k, "BLOCK_IN": block_in, "BLOCK": _BLOCK}
    if grid[0]:
        from linchain.ops import triton_kernels

        _count_launch()
        with _current(a.device):
            triton_kernels.forward_kernel[grid](
                *(a, chain, b, a_out, b_out, kept, float(scale), n, in_features, b.numel(), a_programs),
                **sizes,
                num_warps=warps,
                num_stages=1,
            )
    return a_out, b_out, kept


def backward(
    a: Tensor, chain: Tensor | None, kept: Tensor | None, scale: float, d_a: Tensor, d_b: Tensor, b_dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients at A, the chain and B, in one launch.

    Args:
        a: As given to `forward`, as are `chain` and `scale`.
        kept: What `forward` returned beside A' and B'. It may be used again.
        d_a: dA', (r, in), in float32, bfloat16 or float16, as `d_b`.
        d_b: dB', (out, r), with any strides.
        b_dtype: B's.

    Returns:
        dA, (r, in), in A's dtype; the dW_i stacked, (r, n, r), in the chain's, or None; dB, (out, r), in `b_dtype`.
    """
    r, in_features = a.shape
    a, d_a, out_features = a.contiguous(), d_a.contiguous(), d_b.shape[0]
    grad_a = torch.empty_like(a)
    grad_b = torch.empty(out_features, r, dtype=b_dtype, device=a.device)
    block_in, block_k, warps, parts = _SHAPES[_padded(r)]
    if chain is None:
        n, tiles, a_programs, grad_chain, scratch = 0, 0, _ceil(a.numel(), _BLOCK), None, None
    else:
        chain, n = chain.contiguous(), chain.shape[1]
        grad_chain = torch.empty_like(chain)
        tiles = max(1, _ceil(in_features, block_in * _PARTS))
        a_programs = max(1, _ceil(in_features, block_in * tiles))
        scratch = torch.empty((a_programs + n) * r * r, dtype=torch.float32, device=a.device)
    grid = (a_programs + _ceil(out_features, _BLOCK // _power(r)),)
    sizes = {"R": r, "RP": _padded(r), "BLOCK_K": block_k, "BLOCK_IN": block_in, "BLOCK": _BLOCK}
    if grid[0]:
        from linchain.ops import triton_kernels

        _count_launch()
        with _current(a.device):
            triton_kernels.backward_kernel[grid](
                *(a, chain, kept, d_a, d_b, grad_a, grad_chain, grad_b, scratch),
                *(float(scale), n, in_features, out_features, *d_b.stride(), a_programs, tiles),
                **sizes,
                R_POWER=_power(r),
                PARTS=parts,
                num_warps=warps,
                num_stages=1,
            )
    return grad_a, grad_chain, grad_b


def kept_prefixes(kept: Tensor, r: int) -> list[Tensor]:
    """P_1 … P_n, each (r, r), of what `forward` returned beside A' and B'."""
    return list(kept[:-1].view(-1, r, r).unbind())


def _count_launch() -> None:
    global launches
    launches += 1


def _served(master: Tensor, device: torch.device) -> bool:
    plain = type(master) is torch.nn.Parameter or type(master) is Tensor
    return plain and master.dtype in _DTYPES and master.layout is torch.strided and master.device == device


def _ceil(size: int, block: int) -> int:
    return -(-size // block)


def _power(r: int) -> int:
    return 1 << (r - 1).bit_length()


def _padded(r: int) -> int:
    """`tl.dot` takes 16 rows at least."""
    return max(16, _power(r))


def _current(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, whatever its tensors lie on."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _works(device: torch.device) -> bool:
    if device not in _verdicts:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # no place for a probe: the next question may be
        _verdicts[device] = _first_verdict(device)
    return _verdicts[device]


def _first_verdict(device: torch.device) -> bool:
    if torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    try:
        _probe(device)
    except Exception as error:  # whatever it is, PyTorch's operations do the work
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"linchain's Triton kernels do not work on {device}, PyTorch's operations are used instead: {reason} "
            f"({SWITCH}=0 switches the kernels off without a warning)",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _probe(device: torch.device) -> None:
    """Runs both kernels, the backward twice, and raises where they disagree with the formulas in float64."""
    random = torch.Generator().manual_seed(0)
    r, n, in_features, out_features, scale = 12, 3, 500, 40, 0.5
    shapes = [(r, in_features), (r, n, r), (out_features, r), (r, in_features), (r, out_features)]
    a, chain, b, d_a, d_b = (torch.randn(s, generator=random, dtype=torch.float32, device="cpu") for s in shapes)
    d_a, d_b = d_a.bfloat16(), d_b.bfloat16().T
    factors = unstack(chain.double())
    products = prefixes(factors)
    exact_d_a, *exact_d_factors = fold_backward(a.double(), factors, products, d_a.double(), scale)
    exact = [scaled_product(products[-1], a.double(), scale), b, exact_d_a, torch.stack(exact_d_factors, 1), d_b]

    a, chain, b, d_a, d_b = (t.to(device) for t in (a, chain, b, d_a, d_b))
    a_ready, b_ready, kept = forward(a, chain, b, scale, torch.bfloat16)
    for _ in range(2):
        grad_a, grad_chain, grad_b = backward(a, chain, kept, scale, d_a, d_b, b.dtype)
        assert grad_chain is not None  # there is a chain
        for tensor, expected in zip((a_ready, b_ready, grad_a, grad_chain, grad_b), exact, strict=True):
            tolerance = 2**-7 if tensor.dtype == torch.bfloat16 else 1e-4  # Triton's interpreter cuts off, a GPU rounds
            error = (tensor.cpu().double() - expected.double()).abs().max()
            if not error <= tolerance * expected.abs().max():
                raise RuntimeError("their results differ from PyTorch's")
