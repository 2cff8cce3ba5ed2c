"""Ranks: known spectra, the thin-factor form against the dense one."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from linchain import methods
from linchain.convert.adapter import read_adapter
from linchain.diagnostics.ranks import adapter_ranks, entropy_rank, product_singular_values, stable_rank


def test_known_spectra() -> None:
    assert entropy_rank(torch.ones(7)) == pytest.approx(7)
    assert stable_rank(torch.ones(7)) == pytest.approx(7)
    assert entropy_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1)
    assert stable_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(1.5)
    assert entropy_rank(torch.zeros(4)) == stable_rank(torch.zeros(4)) == 0


@pytest.mark.parametrize(("out", "r", "in_features"), [(40, 5, 30), (3, 8, 20), (20, 8, 4)])
def test_thin_factors_give_the_dense_spectrum(out: int, r: int, in_features: int) -> None:
    b, a = torch.randn(out, r, dtype=torch.float64), torch.randn(r, in_features, dtype=torch.float64)
    k = min(out, r, in_features)
    torch.testing.assert_close(product_singular_values(b, a)[:k], torch.linalg.svdvals(b @ a)[:k])


@pytest.mark.parametrize(
    ("name", "options", "rank"),
    [("lora", {"r": 4}, 4), ("linchain", {"r": 4}, 4), ("linchain", {"chain_widths": [6, 9, 3]}, 3)],
)
def test_adapter_ranks_are_those_of_the_dense_update(
    name: str, options: dict, rank: int, tiny_model: Path, tmp_path: Path
) -> None:
    config = methods.get(name).peft_config({**options, "target_modules": ["q_proj", "down_proj"]})
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    ranks = adapter_ranks(read_adapter(tmp_path))
    assert len(ranks) == 4
    for found in ranks:
        delta = model.base_model.model.get_submodule(found.module).get_delta_weight("default").detach()
        values = torch.linalg.svdvals(delta.double())
        assert found.rank == rank
        assert found.entropy == pytest.approx(entropy_rank(values), rel=1e-3)
        assert found.stable == pytest.approx(stable_rank(values), rel=1e-3)
