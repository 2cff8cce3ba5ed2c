"""What the export says about servers of LoRA adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig
from linchain.convert import export, fold_to_lora, server_hints

A, B = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "base_model.model.lm_head.lora_B.weight"


def hints(extra: dict[str, Tensor] | None = None, **options: Any) -> list[str]:
    options = {"target_modules": ["q_proj"]} | options
    factors = {A: torch.zeros(4, 8), B: torch.zeros(8, 4)}
    return server_hints(LoraConfig(**options), factors | (extra or {}))


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (16, []),
        (24, ["vLLM serves ranks up to 16 by default: start it with --max-lora-rank 32"]),
        (300, ["vLLM serves ranks up to 16 by default: start it with --max-lora-rank 320"]),
        (513, ["vLLM serves no rank above 512, and this adapter has 513; serve the model of --to merged instead"]),
    ],
)
def test_ranks(rank: int, expected: list[str]) -> None:
    assert hints(r=rank) == expected


@pytest.mark.parametrize(
    ("servers", "named", "case"),
    [
        (["vLLM", "llama.cpp"], "score.weight", {"extra": {"base_model.model.score.weight": torch.zeros(2, 8)}}),
        (["vLLM", "llama.cpp"], "q_proj.bias", {"extra": {"base_model.model.q_proj.bias": torch.zeros(8)}}),
        (["vLLM", "llama.cpp"], "convolution", {"extra": {"base_model.model.c.lora_A.weight": torch.zeros(4, 8, 3)}}),
        (["vLLM", "llama.cpp"], "alpha_pattern", {"alpha_pattern": {"q_proj": 4}}),
        (["vLLM"], "rank_pattern", {"rank_pattern": {"q_proj": 4}}),
        (["llama.cpp"], "rsLoRA", {"use_rslora": True}),
        (["llama.cpp"], "target_parameters", {"target_parameters": ["experts.down_proj"]}),
    ],
)
def test_what_cannot_be_served(servers: list[str], named: str, case: dict[str, Any]) -> None:
    lines = hints(**case)
    assert [line.split(" cannot serve this adapter: it has ")[0] for line in lines] == servers
    assert all(named in line and line.endswith("serve the model of --to merged instead") for line in lines)


def test_what_peft_saves_beside_the_factors_is_seen() -> None:
    """The names come from PEFT, not from us: DoRA's magnitudes, biases, a trained head, trained tokens."""
    base = nn.ModuleDict({"embed": nn.Embedding(5, 8), "q_proj": nn.Linear(8, 8), "score": nn.Linear(8, 2)})
    for options in (
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["score"]},
        {"trainable_token_indices": {"embed": [1]}},
    ):
        model = get_peft_model(base, LinChainConfig(r=4, target_modules=["q_proj"], **options))
        assert [line.split()[0] for line in server_hints(*fold_to_lora(model))] == ["vLLM", "llama.cpp"], options
        base = model.unload()
    assert not server_hints(*fold_to_lora(get_peft_model(base, LinChainConfig(r=4, target_modules=["q_proj"]))))


def test_the_export_says_so(tiny_model: Path, tmp_path: Path) -> None:
    config = LinChainConfig(r=20, init_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(str(tmp_path / "wide"))
    assert export(tmp_path / "wide", tmp_path / "lora", "lora").hints == (
        "vLLM serves ranks up to 16 by default: start it with --max-lora-rank 32",
    )
    assert export(tmp_path / "wide", tmp_path / "merged", "merged").hints == ()
