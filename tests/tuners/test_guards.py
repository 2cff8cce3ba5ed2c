"""Hot-swapping, and what would be silently wrong with a chain between A and B: made right, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer
from peft.utils.hotswap import hotswap_adapter, hotswap_adapter_from_state_dict, prepare_model_for_compiled_hotswap
from torch import nn

from linchain import LinChainConfig, LinchainError

from .common import linchain, mlp, x


def saved(path: Path, **options) -> Path:
    linchain(**options).save_pretrained(path)
    return path


def test_hotswap_takes_the_new_chain(tmp_path: Path) -> None:
    new = linchain(chain_length=2, lora_alpha=9, r=3)
    new.save_pretrained(tmp_path / "new")
    model = linchain(chain_length=2, r=5)
    prepare_model_for_compiled_hotswap(model, target_rank=7)
    padded = model(x())
    # PEFT keeps the scale as a float32 tensor from here on
    torch.testing.assert_close(padded, linchain(chain_length=2, r=5)(x()), rtol=1e-6, atol=1e-6)
    hotswap_adapter(model, str(tmp_path / "new"), adapter_name="default")
    torch.testing.assert_close(model(x()), new(x()), rtol=1e-6, atol=1e-6)


def test_hotswap_refuses_another_length(tmp_path: Path) -> None:
    model = linchain(chain_length=3)
    with pytest.raises(ValueError, match="chain_length"):
        hotswap_adapter(model, str(saved(tmp_path / "shorter", chain_length=2)), adapter_name="default")
    before = model(x())
    for shorter in (2, 0):
        state = {
            re.sub(r"(lora_[AB])", r"\1.default", key): value
            for key, value in get_peft_model_state_dict(linchain(chain_length=shorter)).items()
        }
        with pytest.raises(LinchainError, match="cannot hot-swap a chain of another length"):
            hotswap_adapter_from_state_dict(model, state, "default", config=LinChainConfig(r=4, chain_length=shorter))
        assert torch.equal(model(x()), before)


def test_padding_a_ragged_chain_is_refused() -> None:
    with pytest.raises(LinchainError, match="does not support padding chain_widths"):
        prepare_model_for_compiled_hotswap(linchain(r=None, chain_widths=[4, 6, 4]), target_rank=9)


def test_optimizers_that_pair_a_with_b_are_refused() -> None:
    with pytest.raises(LinchainError, match="LinChain does not support the Riemannian optimizer"):
        create_riemannian_optimizer(linchain(), torch.optim.SGD, lr=0.1)
    with pytest.raises(LinchainError, match="LinChain does not support LoRA-FA"):
        create_lorafa_optimizer(linchain(), r=4, lora_alpha=8, lr=0.1)
    lora = get_peft_model(mlp(), LoraConfig(r=4, target_modules=["0"]))
    create_riemannian_optimizer(lora, torch.optim.SGD, lr=0.1)


def test_loraplus_gives_chains_the_rate_of_b() -> None:
    model = linchain(chain_length=2)
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-3 if name.endswith("lora_A.default.weight") else 16e-3), name
    model(x()).sum().backward()
    optimizer.step()


def test_initial_model_conversion_is_refused(tmp_path: Path) -> None:
    model = linchain(init_weights=True)
    model.save_pretrained(tmp_path / "init")
    with pytest.raises(LinchainError, match="does not support path_initial_model_for_weight_conversion"):
        model.save_pretrained(tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "init"))


def test_custom_lora_modules_are_refused() -> None:
    config = LinChainConfig(r=4, target_modules=["0"])
    config._register_custom_module({nn.Linear: type("Custom", (nn.Module,), {})})
    with pytest.raises(LinchainError, match="LinChain does not support custom LoRA modules"):
        get_peft_model(mlp(), config)


def test_mixing_with_plain_lora_is_pefts_refusal() -> None:
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        linchain().add_adapter("lora", LoraConfig(target_modules=["0"]))


def test_loftq_replacement_is_refused() -> None:
    from peft import replace_lora_weights_loftq

    with pytest.raises(LinchainError, match="LinChain does not support LoftQ"):
        replace_lora_weights_loftq(linchain())
