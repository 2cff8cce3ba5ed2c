"""Shapes of published models: their known parameter counts, and names that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from linchain.diagnostics import architectures
from linchain.errors import LinchainError


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-3-8b", 8_030_261_248),
        # the encoder without pooler, and a classifier's head for two labels
        ("roberta-base", 124_055_040 + 592_130),
    ],
)
def test_published_sizes_without_any_memory(name: str, parameters: int) -> None:
    model = architectures.build(architectures.load_config(name))
    assert model.num_parameters() == parameters
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_a_folder_is_a_model(tiny_model: Path) -> None:
    model = architectures.build(architectures.load_config(str(tiny_model)))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3-8", "unknown model 'llama-3-8'; did you mean 'llama-3-8b'"),
        ("./nowhere", "unknown model './nowhere'"),
        ("nobody/nothing", "unknown model 'nobody/nothing'"),
    ],
)
def test_unknown_names(name: str, expected: str) -> None:
    with pytest.raises(LinchainError, match=expected):
        architectures.load_config(name)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(LinchainError, match=r"config\.json"):
        architectures.load_config(str(tmp_path))
