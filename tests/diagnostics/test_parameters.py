"""Counts on the real PEFT model against the papers' formula, and the size of the file against a saved one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from linchain import methods
from linchain.convert.adapter import WEIGHTS_FILE
from linchain.diagnostics import architectures
from linchain.diagnostics.parameters import parameters_by_module, saved_size
from linchain.errors import LinchainError
from linchain.methods.apply import apply


def formula(shape: tuple[int, int], widths: list[int]) -> int:
    """d_in·r_0 + Σ r_{i-1}·r_i + r_n·d_out for a weight of shape (d_out, d_in)."""
    chain = sum(a * b for a, b in pairwise(widths))
    return shape[1] * widths[0] + chain + widths[-1] * shape[0]


@pytest.mark.parametrize(
    ("method", "options", "widths"),
    [
        ("lora", {"r": 8}, [8]),
        ("moslora", {"r": 8}, [8, 8]),
        ("linchain", {"r": 4, "chain_length": 5}, [4] * 6),
        ("linchain", {"chain_widths": [3, 7, 2]}, [3, 7, 2]),
    ],
)
def test_the_formula_holds_for_every_module(method: str, options: dict, widths: list[int]) -> None:
    config = methods.get(method).peft_config({**options, "target_modules": "all-linear"}, task_type="CAUSAL_LM")
    model = apply(architectures.build(architectures.load_config("llama-2-7b")), config)
    modules = parameters_by_module(model)
    assert len(modules) == 7
    for module in modules:
        assert module.shape is not None
        assert len(module.shape) == 2
        assert module.count == 32
        assert module.parameters == 32 * formula((module.shape[0], module.shape[1]), widths)
    assert sum(module.parameters for module in modules) == model.get_nb_trainable_parameters()[0]


def test_a_head_trained_in_full_is_listed_on_its_own() -> None:
    config = methods.get("lora").peft_config({"target_modules": ["query", "value"]}, task_type="SEQ_CLS")
    model = apply(architectures.build(architectures.load_config("roberta-base")), config)
    found = {module.name: module for module in parameters_by_module(model)}
    assert found["query"].parameters == found["value"].parameters == 12 * 16 * (768 + 768)
    assert (found["classifier"].shape, found["classifier"].parameters) == (None, 592_130)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "options", "task"),
    [
        ("lora", {"target_modules": "all-linear"}, "CAUSAL_LM"),
        ("linchain", {"target_modules": ["q_proj", "down_proj"], "r": 3}, "SEQ_CLS"),
        ("linchain", {"target_modules": ["v_proj"], "chain_widths": [2, 5, 3]}, "CAUSAL_LM"),
    ],
)
def test_file_size_is_that_of_the_saved_file(
    method: str, options: dict, task: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    auto_class = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    base = auto_class.from_pretrained(tiny_model, dtype=dtype)
    config = methods.get(method).peft_config(options, task_type=task)
    model = peft.get_peft_model(base, config, autocast_adapter_dtype=False)
    model.save_pretrained(tmp_path)
    assert saved_size(model, config) == (tmp_path / WEIGHTS_FILE).stat().st_size


@pytest.mark.parametrize("targets", [["q_proj", "k_porj"], "nothing_like_this"])
def test_targets_that_match_nothing(targets: list[str] | str) -> None:
    config = methods.get("linchain").peft_config({"target_modules": targets}, task_type="CAUSAL_LM")
    with pytest.raises(LinchainError, match="down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj"):
        apply(architectures.build(architectures.load_config("llama-3-8b")), config)
