"""LoRA → LinChain: the same function, with a chain that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from linchain import LinChainConfig
from linchain.convert import fold_to_lora, lora_to_linchain
from linchain.errors import LinchainError
from tests.contract.cases import LAYERS, Layer
from tests.convert.test_fold import assert_same


def lora(model: nn.Module, **options: Any) -> Any:
    return get_peft_model(model, LoraConfig(init_lora_weights=False, **options)).eval()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_the_chain_changes_nothing_and_trains(layer: Layer, length: int) -> None:
    adapted = lora(layer.model(), r=4, lora_alpha=7, **layer.targets)
    config, state = lora_to_linchain(adapted, length)
    assert (config.chain_length, config.init_weights) == (length, "identity")
    chained = get_peft_model(layer.model(), config)
    assert get_peft_model_state_dict(chained).keys() == state.keys()
    set_peft_model_state_dict(chained, state)
    x = layer.sample()
    assert_same(adapted(x), chained.eval()(x))

    chained.train()(x).square().sum().backward()
    gradients = [p.grad for name, p in chained.named_parameters() if ".chain" in name]
    assert len(gradients) == (0 if length == 0 else len(layer.weights))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_there_and_back_is_the_lora(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
    adapted = lora(
        model, r=2, rank_pattern={"2": 3}, alpha_pattern={"2": 5}, use_rslora=True, target_modules=["0", "2"]
    )
    adapted.save_pretrained(str(tmp_path))
    config, state = lora_to_linchain(tmp_path)
    assert state["base_model.model.2.lora_A.chain"].shape == (3, 3, 3)
    chained = get_peft_model(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)), config)
    set_peft_model_state_dict(chained, state)
    back_config, back = fold_to_lora(chained)
    original = get_peft_model_state_dict(adapted)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[key], original[key]) for key in back)
    assert back_config.rank_pattern == {"2": 3}


def test_dora_is_continued() -> None:
    adapted = lora(nn.Sequential(nn.Linear(5, 4)), r=2, use_dora=True, target_modules=["0"])
    config, state = lora_to_linchain(adapted)
    assert config.use_dora
    assert "base_model.model.0.lora_magnitude_vector" in state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "olora"}, "does not support init_lora_weights='olora'"),
        ({"target_parameters": ["0.weight"], "target_modules": [], "rank_pattern": {"0": 3}}, "how many experts"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(5, 4)), LoraConfig(r=2, **{"target_modules": ["0"], **options}))
    with pytest.raises(LinchainError, match=message):
        lora_to_linchain(model)


def test_a_linchain_is_refused() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(5, 4)), LinChainConfig(r=2, target_modules=["0"]))
    with pytest.raises(LinchainError, match="needs a LoRA adapter, got one of type"):
        lora_to_linchain(model)
