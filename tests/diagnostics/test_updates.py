"""ΔW of every method against the dense one, the chain's factors and gradients, and the figures of the paper's start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig, methods
from linchain.diagnostics import ranks
from linchain.diagnostics.ranks import dense_ranks, entropy_rank, participation_ratio, ranks_of, stable_rank
from linchain.diagnostics.updates import updates_of

TARGETS = ["q_proj", "down_proj"]
MOVING = ("pissa", "olora", "lora-ga", "linchain-pissa")


def adapted(tiny_model: Path, name: str, **options: Any) -> Any:
    base = AutoModelForCausalLM.from_pretrained(tiny_model)

    def backward(count: int) -> None:
        for seed in range(count):
            tokens = torch.randint(0, base.config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(seed))
            base(input_ids=tokens, labels=tokens).loss.backward()

    torch.manual_seed(0)
    options = {"r": 4, "target_modules": TARGETS, **options} if name != "full" else {}
    return methods.get(name).adapt(base, options, backward)


def trained(model: Any, seed: int = 0) -> Any:
    """As if it had been trained: what can be trained has moved."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.weight.detach().clone() for name, module in model.named_modules() if hasattr(module, "weight")}


@pytest.mark.parametrize("name", methods.names())
def test_the_ranks_are_those_of_the_merged_weight_less_the_base(name: str, tiny_model: Path) -> None:
    before = weights(AutoModelForCausalLM.from_pretrained(tiny_model))
    model = adapted(tiny_model, name).double()
    updates = updates_of(model)
    assert [update.ranks().norm for update in updates] == pytest.approx([0] * len(updates), abs=1e-6)
    trained(model)
    found = {update.name: update.ranks() for update in updates}
    bounds = {update.name: update.rank for update in updates}
    after = weights(model.merge_and_unload() if name != "full" else model)
    changed = {key for key in before if key != "lm_head" and not torch.equal(before[key], after[key])}
    # full fine-tuning trains embeddings and norms too
    assert set(found) == {key for key in changed if name != "full" or key.endswith("_proj")}
    assert len(found) == (4 if name != "full" else 14)
    for module, measured in found.items():
        values = torch.linalg.svdvals(after[module] - before[module].double())
        assert measured.norm == pytest.approx(float(values.norm()), rel=1e-5)
        assert measured.entropy == pytest.approx(entropy_rank(values), rel=1e-3)
        assert measured.stable == pytest.approx(stable_rank(values), rel=1e-5)
        assert measured.participation == pytest.approx(participation_ratio(values), rel=1e-5)
        torch.testing.assert_close(measured.values, values[: len(measured.values)], rtol=0, atol=1e-5)
        rank = bounds[module]
        assert rank == (
            None if name in ("dora", "bone-col", "bone-row", "miss-bat", "full") else 8 if name in MOVING else 4
        )
        assert rank is None or float(values[rank:].sum()) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linchain", {"target_modules": ["embed_tokens"], "chain_length": 2}),
        ("dora", {"target_modules": ["embed_tokens"]}),
        ("linchain", {"r": 6, "chain_widths": [6, 9, 3]}),
        ("linchain", {"use_rslora": True, "alpha_pattern": {"q_proj": 5}, "rank_pattern": {"down_proj": 3}}),
    ],
)
def test_embeddings_widths_and_patterns(name: str, options: dict[str, Any], tiny_model: Path) -> None:
    before = weights(AutoModelForCausalLM.from_pretrained(tiny_model))
    model = adapted(tiny_model, name, **options).double()
    updates = updates_of(model)
    trained(model)
    found = {update.name: update.ranks() for update in updates}
    after = weights(model.merge_and_unload())
    assert found
    for module, measured in found.items():
        values = torch.linalg.svdvals(after[module] - before[module].double())
        torch.testing.assert_close(measured.values, values[: len(measured.values)], rtol=0, atol=1e-5)
        assert float(values[len(measured.values) :].sum()) < 1e-5


def test_a_dora_that_has_not_moved_has_no_ranks(tiny_model: Path) -> None:
    measured = [update.ranks() for update in updates_of(adapted(tiny_model, "dora"))]
    assert [(one.entropy, one.stable, one.participation) for one in measured] == [(0, 0, 0)] * 4


@pytest.mark.parametrize(("shape", "rank"), [((200, 300), 200), ((300, 200), 200), ((200, 300), 3)])
def test_large_dense_updates_go_without_their_whole_spectrum(
    shape: tuple[int, int], rank: int, monkeypatch: Any
) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator)
    if rank < min(shape):
        matrix = matrix[:, :rank] @ torch.randn(rank, shape[1], dtype=torch.float64, generator=generator)
    exact = ranks_of(torch.linalg.svdvals(matrix))
    whole = dense_ranks(matrix)
    assert (whole.entropy, whole.stable) == pytest.approx((exact.entropy, exact.stable), rel=1e-4)
    monkeypatch.setattr(ranks, "WHOLE_SPECTRUM", 10)
    found = dense_ranks(matrix)
    assert (found.norm, found.stable, found.participation) == pytest.approx(
        (exact.norm, exact.stable, exact.participation), rel=1e-6
    )
    assert found.entropy is None
    assert found.values is None
    assert dense_ranks(torch.zeros(shape)).stable == 0


def test_the_factors_of_a_chain(tiny_model: Path) -> None:
    model = trained(adapted(tiny_model, "linchain"))
    first = updates_of(model)[0]
    layer = model.get_submodule(f"base_model.model.{first.name}")
    a, chain, b = layer.lora_A["default"].weight, layer.lora_A["default"].chain, layer.lora_B["default"].weight
    expected = {"A": a, **{f"W{i + 1}": chain[:, i] for i in range(3)}, "B": b}
    expected["AW"] = chain.double()[:, 2] @ chain.double()[:, 1] @ chain.double()[:, 0] @ a.double()
    found = first.factors()
    assert list(found) == ["A", "W1", "W2", "W3", "B", "AW"]
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix.detach().double())


@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.float32, 1e-9, 1e-6), (torch.bfloat16, 1e-4, 1e-2)])
def test_the_folding_error(dtype: torch.dtype, low: float, high: float, tiny_model: Path) -> None:
    model = adapted(tiny_model, "linchain").to(dtype)
    assert updates_of(model)[0].folding_error() is None  # B is zero, and so is ΔW
    update = updates_of(trained(model))[0]
    factors, layer = update.factors(), model.get_submodule(f"base_model.model.{update.name}")
    rounded = layer.lora_A["default"].folded_weight().to(dtype).double().detach()
    exact = factors["B"] @ factors["AW"]
    error = float((factors["B"] @ rounded - exact).norm() / exact.norm())
    assert update.folding_error() == pytest.approx(error, rel=1e-6)
    assert low < error < high
    assert updates_of(adapted(tiny_model, "lora"))[0].folding_error() is None


def test_the_papers_start_shrinks_the_signal_the_gradient_and_the_spectrum() -> None:
    """RMS 0.998, 0.576, 0.333, 0.192 (3^(-n/2)) and entropy rank 15.97, 12.8, 10.6, 9.05 of A W1 … Wn for n = 0 … 3."""
    draws, width = 40, 1024
    signals, gradients, entropies, conditions = (torch.zeros(4, draws) for _ in range(4))
    for n in range(4):
        for draw in range(draws):
            torch.manual_seed(draw)
            config = LinChainConfig(r=16, chain_length=n, target_modules=["0"])
            model = peft.get_peft_model(nn.Sequential(nn.Linear(width, 8)), config)
            (update,) = updates_of(model)
            # A's entries have variance 1 / (3 · width): so scaled, A x has RMS 1
            x = math.sqrt(3) * torch.randn(64, width)
            layer = model.get_submodule("base_model.model.0")
            signals[n, draw] = layer.lora_A["default"](x).square().mean()
            model(x).backward(torch.ones(64, 8) / 64)
            b = update.parts()[-1]
            assert b.names == ("B",)
            gradients[n, draw] = b.parameter.grad.square().sum()
            factors = update.factors()
            values = torch.linalg.svdvals(factors.get("AW", factors["A"]))
            entropies[n, draw], conditions[n, draw] = entropy_rank(values), values[0] / values[-1]
    expected = torch.tensor([1 / 3 ** (n / 2) for n in range(4)])
    torch.testing.assert_close(signals.mean(1).sqrt(), expected, rtol=0.12, atol=0)
    shrunk = gradients.mean(1).sqrt() / gradients[0].mean().sqrt()
    torch.testing.assert_close(shrunk, expected, rtol=0.25, atol=0)
    torch.testing.assert_close(entropies.mean(1), torch.tensor([15.97, 12.8, 10.6, 9.05]), rtol=0, atol=0.4)
    assert conditions[0].median() < 1.4
    assert 1_000 < conditions[3].median() < 12_000
