"""The GPU kernels of a layer's factors, without a GPU: their results under Triton's interpreter, and that they compile."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import linchain.ops
from linchain.ops import reference, triton_chain, unstack
from linchain.ops.chain import fold_backward, prefixes
from linchain.ops.factors import Factors, masters_gradients, ready

# before any test sets TRITON_INTERPRET: triton's own library must not be the interpreter's in what else runs here
triton = pytest.importorskip("triton")

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# relative to the largest number; the interpreter cuts bfloat16 off where a GPU rounds
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def load(name: str) -> ModuleType:
    """A copy of a module of linchain.ops, seen by nobody else."""
    path = Path(linchain.ops.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"copy_of_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreted_kernels() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read where @triton.jit is applied
        return load("triton_kernels")


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch, interpreted_kernels: ModuleType) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv("LINCHAIN_TRITON", raising=False)
    monkeypatch.setattr(linchain.ops, "triton_kernels", interpreted_kernels, raising=False)
    monkeypatch.setattr(triton_chain, "_verdicts", {})


with_interpreter = pytest.mark.usefixtures("interpreter")
examples = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def masters(r: int, n: int, ins: int, outs: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A, the chain (of no matrices where n is 0) and B."""
    random = torch.Generator().manual_seed(r + 10 * n + 100 * ins + 1000 * outs)
    shapes = [(r, ins), (r, n, r), (outs, r)]
    a, chain, b = (torch.randn(shape, generator=random) for shape in shapes)
    return a.to(dtype), (chain / r**0.5).to(dtype), b.to(dtype)


def close(tensor: Tensor, expected: Tensor) -> None:
    assert tensor.shape == expected.shape
    expected = expected.double()
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=TOLERANCE[tensor.dtype] * largest)


ranks = st.sampled_from([1, 2, 3, 5, 8, 12, 16, 17, 32, 33, 64])


@with_interpreter
@examples
@given(
    ranks, st.integers(0, 4), st.integers(1, 150), st.integers(1, 80), st.floats(-3, 3).filter(lambda s: abs(s) > 0.1)
)
def test_a_layer_gets_the_references_gradients(r: int, n: int, ins: int, outs: int, scale: float) -> None:
    a, chain, b = masters(r, n, ins, outs)
    x, grad_y = torch.randn(3, ins).double(), torch.randn(3, outs).double()
    stacked = chain if n else None
    a_ready, b_ready, kept = triton_chain.forward(a, stacked, b, scale, torch.float32)
    exact = [t.double() for t in (a, b)]
    factors = unstack(chain.double())
    close(a_ready, scale * reference.chain_product(factors, r).double() @ exact[0])
    assert torch.equal(b_ready, b)

    g = grad_y.T @ x  # what the layer's products make of y = x A'ᵀ B'ᵀ
    d_a, d_b = (b_ready.double().T @ g).float(), (g @ a_ready.double().T).float()
    ours = triton_chain.backward(a, stacked, kept, scale, d_a, d_b, b.dtype)
    expected_a, expected_factors, expected_b = reference.gradients(x, grad_y, exact[0], factors, exact[1], scale)
    close(ours[0], expected_a)
    close(ours[2], expected_b)
    assert (ours[1] is None) == (n == 0)
    if ours[1] is not None:
        close(ours[1], torch.stack(expected_factors, 1))


@with_interpreter
@examples
@given(ranks, st.integers(1, 3), st.integers(1, 70), *[st.sampled_from(FLOATS)] * 3)
def test_every_dtype(
    r: int, n: int, ins: int, dtype: torch.dtype, chain_dtype: torch.dtype, ready_dtype: torch.dtype
) -> None:
    """Rounded once: within one unit of the product's dtype, however long the chain; the gradients in the masters'."""
    a, _, b = masters(r, n, ins, 9, dtype)
    chain = masters(r, n, ins, 9, chain_dtype)[1]
    a_ready, b_ready, kept = triton_chain.forward(a, chain, b, 0.5, ready_dtype)
    factors = unstack(chain.double())
    products = prefixes(factors)
    assert kept is not None
    close(kept[:-1].view(n, r, r), torch.stack(products))
    assert a_ready.dtype == b_ready.dtype == ready_dtype
    close(a_ready, 0.5 * products[-1] @ a.double())
    close(b_ready, b)

    d_a, d_b = torch.randn(r, ins).to(ready_dtype), torch.randn(9, r).to(ready_dtype)
    grad_a, grad_chain, grad_b = triton_chain.backward(a, chain, kept, 0.5, d_a, d_b, dtype)
    expected_a, *expected_factors = fold_backward(a.double(), factors, products, d_a.double(), 0.5)
    assert grad_chain is not None
    assert [grad_a.dtype, grad_chain.dtype, grad_b.dtype] == [dtype, chain_dtype, dtype]
    close(grad_a, expected_a)
    close(grad_chain, torch.stack(expected_factors, 1))
    close(grad_b, d_b)


@with_interpreter
@pytest.mark.parametrize(("r", "n", "ins"), [(16, 3, 64 * 64 + 7), (128, 2, 40), (100, 1, 33)])
def test_many_tiles_a_program_and_high_ranks(r: int, n: int, ins: int) -> None:
    a, chain, b = masters(r, n, ins, 3)
    _, _, kept = triton_chain.forward(a, chain, b, 2.0, torch.float32)
    d_a, d_b = torch.randn(r, ins), torch.randn(3, r)
    grad_a, grad_chain, _ = triton_chain.backward(a, chain, kept, 2.0, d_a, d_b, b.dtype)
    factors = unstack(chain.double())
    expected_a, *expected_factors = fold_backward(a.double(), factors, prefixes(factors), d_a.double(), 2.0)
    close(grad_a, expected_a)
    assert grad_chain is not None
    close(grad_chain, torch.stack(expected_factors, 1))


@with_interpreter
def test_the_same_bits_however_the_tensors_lie_in_memory() -> None:
    a, chain, b = masters(12, 3, 200, 50)
    d_a, d_b = torch.randn(12, 200).bfloat16(), torch.randn(50, 1).bfloat16().expand(50, 12)
    ready = triton_chain.forward(a, chain, b, 0.5, torch.bfloat16)
    first = triton_chain.backward(a, chain, ready[2], 0.5, d_a, d_b.contiguous(), b.dtype)
    scattered = [a.T.contiguous().T, chain.transpose(0, 2).contiguous().transpose(0, 2), b.T.contiguous().T]
    assert not any(t.is_contiguous() for t in scattered)
    for tensor, other in zip(ready, triton_chain.forward(*scattered, 0.5, torch.bfloat16), strict=True):
        assert other is not None
        assert torch.equal(tensor, other)
    # what the forward kept serves again: its counter ends where it began
    for d_b_too in (d_b, d_b.T.contiguous().T, d_b.contiguous()):
        again = triton_chain.backward(*scattered[:2], ready[2], 0.5, d_a.T.contiguous().T, d_b_too, b.dtype)
        for tensor, other in zip(first, again, strict=True):
            assert torch.equal(tensor, other)
            assert other.is_contiguous()


@with_interpreter
@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize(("ins", "outs"), [(0, 0), (0, 3), (4, 0)])
def test_empty_matrices(n: int, ins: int, outs: int) -> None:
    a, chain, b = masters(3, n, ins, outs)
    stacked = chain if n else None
    a_ready, b_ready, kept = triton_chain.forward(a, stacked, b, 1.0, torch.float32)
    assert (a_ready.shape, b_ready.shape) == (a.shape, b.shape)
    grad_a, grad_chain, grad_b = triton_chain.backward(a, stacked, kept, 1.0, a_ready, b_ready, b.dtype)
    assert (grad_a.shape, grad_b.shape) == (a.shape, b.shape)
    if grad_chain is not None and ins == 0:
        assert torch.equal(grad_chain, torch.zeros_like(chain))


@with_interpreter
def test_who_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    a, chain, b = masters(16, 3, 8, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert triton_chain.usable(a, chain, b)
        assert triton_chain.usable(torch.nn.Parameter(a), None, b.bfloat16())
        refused = [
            (a.double(), chain, b),
            (a, chain.double(), b),
            (a, chain, b.to("meta")),
            (a, chain, b.to_sparse()),
            (a.expand(2, 16, 8), chain, b),
            (torch.nn.Buffer(a).as_subclass(type("Sharded", (Tensor,), {})), chain, b),
            masters(129, 1, 2, 2),
        ]
        assert not any(triton_chain.usable(*tensors) for tensors in refused)
        monkeypatch.setenv("LINCHAIN_TRITON", "0")
        assert not triton_chain.usable(a, chain, b)
        monkeypatch.delenv("LINCHAIN_TRITON")
        monkeypatch.delenv("TRITON_INTERPRET")
        assert not triton_chain.usable(a, chain, b)


@with_interpreter
@pytest.mark.parametrize("fault", ["raises", "disagrees", "nan"])
def test_a_failed_probe_warns_once_and_means_no(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    genuine = triton_chain.backward

    def faulty(*args: object) -> tuple[Tensor | None, ...]:
        if fault == "raises":
            raise RuntimeError("Failed to find C compiler.\nA long explanation")
        grad_a, grad_chain, grad_b = genuine(*args)  # type: ignore[arg-type]
        assert grad_chain is not None
        return grad_a, grad_chain * (1.01 if fault == "disagrees" else float("nan")), grad_b

    monkeypatch.setattr(triton_chain, "backward", faulty)
    reason = r"Failed to find C compiler\. \(LINCHAIN_TRITON=0" if fault == "raises" else "results differ"
    with pytest.warns(
        RuntimeWarning, match=rf"not work on cpu, PyTorch's operations are used instead: .*{reason}"
    ) as seen:
        answers = [triton_chain.usable(*masters(2, 1, 4, 4)) for _ in range(2)]
    assert answers == [False, False]
    assert len(seen) == 1


@with_interpreter
def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
    module = load("triton_chain")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not module.usable(*masters(2, 1, 4, 4))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple, dict]]]:
    """What `forward` and `backward` launch, with which arguments; nothing runs."""
    calls: list[tuple[str, tuple, dict]] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int]):
            return lambda *args, **options: calls.append((self.name, args, options))

    kernels = SimpleNamespace(**{name: Recorder(name) for name in ("forward_kernel", "backward_kernel")})
    monkeypatch.setattr(linchain.ops, "triton_kernels", kernels, raising=False)
    return calls


def compiled(kernel, args: tuple, options: dict, capability: int):
    """The kernel for a GPU that is not here, specialised as Triton's launcher specialises it."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import mangle_type

    signature, constants, aligned = {}, {}, {}
    named = dict(zip(kernel.arg_names, args, strict=False)) | {
        k: v for k, v in options.items() if k in kernel.arg_names
    }
    for index, parameter in enumerate(kernel.params):
        value, free = named[parameter.name], not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (free and isinstance(value, int) and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = mangle_type(value)
        if isinstance(value, Tensor) or (free and isinstance(value, int) and value % 16 == 0):
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    launch = {key: options[key] for key in ("num_warps", "num_stages")}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="with Triton's interpreter on, nothing compiles")
@pytest.mark.parametrize(
    ("capability", "r", "n", "sizes", "dtype"),
    [
        (80, 8, 3, (1024, 512), torch.bfloat16),
        (90, 16, 3, (1000, 500), torch.bfloat16),
        (90, 16, 0, (1024, 512), torch.bfloat16),
        (80, 64, 2, (1024, 512), torch.float16),
        (90, 128, 1, (1024, 512), torch.float32),
        (80, 1, 0, (1, 1), torch.float32),  # the launcher makes constants of ones
        (80, 1, 1, (1, 1), torch.float32),
    ],
)
def test_both_kernels_compile_and_do_not_spill(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    launches: list[tuple[str, tuple, dict]],
    capability: int,
    r: int,
    n: int,
    sizes: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    a, chain, b = masters(r, n, *sizes)
    stacked = chain if n else None
    _, _, kept = triton_chain.forward(a, stacked, b, 0.5, dtype)
    triton_chain.backward(a, stacked, kept, 0.5, a.to(dtype), b.T.contiguous().T.to(dtype), b.dtype)
    kernels = load("triton_kernels")
    assert [name for name, _, _ in launches] == ["forward_kernel", "backward_kernel"]
    for name, args, options in launches:
        binary = compiled(getattr(kernels, name), args, options, capability)
        assert binary.metadata.shared <= 99 * 1024
        ptx = binary.asm["ptx"]
        assert "tf32" not in ptx
        assert dtype == torch.float32 or name == "backward_kernel" or f"cvt.rn.{triton_name(dtype)}" in ptx
        counted = "atom.global.gpu.acq_rel.add.u32" in ptx
        assert counted == (n > 0 and name == "backward_kernel")
        cubin = tmp_path / f"{name}.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run(
            [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        assert re.search(r"REG:\d+ STACK:0 .*LOCAL:0 ", usage), usage


def triton_name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]


@with_interpreter
@pytest.mark.parametrize("n", [0, 3])
def test_a_layers_factors_come_from_the_kernels(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    a, chain, b = masters(6, n, 50, 20)
    factors = Factors(a, b, 0.5, [chain], True) if n else Factors(a, b, 0.5)
    d_a, d_b = torch.randn_like(a), torch.randn_like(b)
    asked = [(d_a, d_b), (d_a, None), (None, d_b)]
    assert triton_chain.usable(a, None, b)  # the probe's launches lie before
    before = triton_chain.launches
    ours = ready(factors, torch.float32)
    gradients = [masters_gradients(factors, *ours[2:], *given) for given in asked]
    assert ours.in_one_launch
    assert triton_chain.launches == before + 2  # what asks for less than all is left to PyTorch
    monkeypatch.setenv("LINCHAIN_TRITON", "0")
    plain = ready(factors, torch.float32)
    assert not plain.in_one_launch
    torch.testing.assert_close(ours[:2], plain[:2])
    for request, found in zip(asked, gradients, strict=True):
        torch.testing.assert_close(found, masters_gradients(factors, *plain[2:], *request))
