"""LinChain → LoRA: the folded adapter, in stock PEFT's LoRA layers, is the function that the chain was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from linchain import LinChainConfig, fold_to_lora
from linchain.convert.fold import fold_adapter
from linchain.errors import LinchainError
from tests.contract.cases import LAYERS, Layer

# PEFT takes the bias of B for a sharded tensor
pytestmark = pytest.mark.filterwarnings("ignore:Adapter 'default'")

WIDTHS: dict[str, dict[str, Any]] = {
    "square": {"r": 4, "chain_length": 3},
    "no chain": {"r": 4, "chain_length": 0},
    "narrow end": {"chain_widths": [4, 6, 2]},
    "narrow start": {"chain_widths": [2, 6, 4], "use_rslora": True},
    "narrow middle": {"chain_widths": [6, 2, 5], "use_rslora": True},
    "two narrow": {"chain_widths": [3, 5, 3]},
}


def linchain(model: nn.Module, **options: Any) -> PeftModel:
    """`model` with a LinChain adapter of which everything is random."""
    return get_peft_model(model, LinChainConfig(init_weights=False, **options)).eval()


def as_lora(model: nn.Module, config: LoraConfig, state: dict[str, Tensor]) -> PeftModel:
    """`model` with a LoRA adapter, every tensor of which is one of `state`'s and the other way round."""
    assert type(config) is LoraConfig
    lora = get_peft_model(model, config)
    assert get_peft_model_state_dict(lora, save_embedding_layers=False).keys() == state.keys()
    set_peft_model_state_dict(lora, state)
    return lora.eval()


def assert_same(left: Tensor, right: Tensor, tolerance: float = 1e-12) -> None:
    assert left.isfinite().all()
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance * float(left.detach().abs().max()))


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_folded_adapter_is_the_same_function(layer: Layer, widths: dict[str, Any]) -> None:
    model = linchain(layer.model(), lora_alpha=7, **widths, **layer.targets)
    config, state = fold_to_lora(model)
    assert config.r == min(widths.get("chain_widths", [4]))
    x = layer.sample()
    assert_same(model(x), as_lora(layer.model(), config, state)(x))


@pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS if layer.name in ("linear", "Conv1D")], ids=lambda c: c.name
)
@pytest.mark.parametrize("widths", [WIDTHS["square"], WIDTHS["narrow middle"]], ids=["square", "narrow middle"])
def test_dora_keeps_its_magnitudes(layer: Layer, widths: dict[str, Any]) -> None:
    model = linchain(layer.model(), use_dora=True, **widths, **layer.targets)
    with torch.no_grad():
        model.base_model.model.layer.lora_magnitude_vector["default"].weight.mul_(1.3)
    x = layer.sample()
    assert_same(model(x), as_lora(layer.model(), *fold_to_lora(model))(x))


def test_a_grouped_convolution_folds_into_a() -> None:
    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)).double()

    model = linchain(base(), chain_widths=[2, 8, 4], target_modules=["0"])
    config, state = fold_to_lora(model)
    assert config.r == 4
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert_same(model(x), as_lora(base(), config, state)(x))


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    alpha=st.integers(1, 64),
    rslora=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_widths(widths: list[int], shape: tuple[int, int], alpha: int, rslora: bool, bias: bool, seed: int) -> None:
    def base() -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(*shape)).double()

    options = {"chain_widths": widths, "lora_alpha": alpha, "use_rslora": rslora, "lora_bias": bias}
    model = linchain(base(), target_modules=["0"], **options)
    config, state = fold_to_lora(model)
    assert config.r == min(widths)
    x = torch.randn(3, shape[0], dtype=torch.float64)
    assert_same(model(x), as_lora(base(), config, state)(x))


@settings(max_examples=20, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    alphas=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    length=st.integers(0, 3),
    rslora=st.booleans(),
)
def test_rank_and_alpha_patterns(ranks: tuple[int, int], alphas: tuple[int, int], length: int, rslora: bool) -> None:
    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()

    options = {
        "r": ranks[0],
        "lora_alpha": alphas[0],
        "rank_pattern": {"2": ranks[1]},
        "alpha_pattern": {"2": alphas[1]},
    }
    model = linchain(base(), target_modules=["0", "2"], chain_length=length, use_rslora=rslora, **options)
    x = torch.randn(3, 5, dtype=torch.float64)
    assert_same(model(x), as_lora(base(), *fold_to_lora(model))(x))


def test_alpha_patterns_keep_their_scale_when_the_rank_changes() -> None:
    config = {"chain_widths": [6, 5, 4], "lora_alpha": 3, "alpha_pattern": {"2": 9}, "target_modules": ["0", "2"]}

    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()

    model = linchain(base(), **config)
    folded, state = fold_to_lora(model)
    assert (folded.lora_alpha, folded.alpha_pattern) == (2, {"2": 6})
    x = torch.randn(3, 5, dtype=torch.float64)
    assert_same(model(x), as_lora(base(), folded, state)(x))


@pytest.mark.parametrize("widths", [[3, 3, 3], [5, 4, 2], [2, 4, 5], [5, 2, 4]], ids=str)
def test_tied_embeddings(widths: list[int], tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=True).double()

    options = {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True, "task_type": "CAUSAL_LM"}
    model = linchain(base(), chain_widths=widths, **options)
    assert any("lm_head.lora_A" in name for name, _ in model.named_parameters())
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    config, folded = fold_adapter(model.peft_config["default"], state)
    ids = torch.arange(40).view(2, 20)
    assert_same(model(ids).logits, as_lora(base(), config, folded)(ids).logits, 1e-11)


def test_everything_else_is_carried_through(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.inner, self.head = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.inner(self.emb(x))))

    def base() -> nn.Module:
        torch.manual_seed(0)
        return Net()

    options: dict[str, Any] = {"modules_to_save": ["head"], "trainable_token_indices": {"emb": [1, 4]}, "bias": "all"}
    model = linchain(base(), r=3, chain_length=2, target_modules=["inner"], **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    x = torch.arange(9)[None]
    config, state = fold_to_lora(model)
    assert_same(model(x), as_lora(base(), config, state)(x), 1e-6)
    before = get_peft_model_state_dict(model)
    chain = "base_model.model.inner.lora_A.chain"
    assert state.keys() == before.keys() - {chain}
    assert all(torch.equal(state[key], before[key]) for key in state if not key.endswith("inner.lora_A.weight"))

    model.save_pretrained(str(tmp_path))
    from_folder = fold_to_lora(tmp_path)
    saved = {"inference_mode": True, "auto_mapping": from_folder[0].auto_mapping}
    assert from_folder[0].to_dict() == config.to_dict() | saved
    assert all(torch.equal(from_folder[1][key], state[key]) for key in state)


def test_the_live_adapter_is_left_alone() -> None:
    model = linchain(nn.Sequential(nn.Linear(5, 4)), r=2, target_modules=["0"])
    _, state = fold_to_lora(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_which_adapter_of_several() -> None:
    model = linchain(nn.Sequential(nn.Linear(5, 4)), r=2, target_modules=["0"])
    model.add_adapter("other", LinChainConfig(chain_widths=[4, 3], init_weights=False, target_modules=["0"]))
    assert fold_to_lora(model)[0].r == 2
    assert fold_to_lora(model, "other")[1]["base_model.model.0.lora_A.weight"].shape == (3, 5)
    with pytest.raises(LinchainError, match="unknown adapter 'othr'; did you mean 'other'"):
        fold_to_lora(model, "othr")


@pytest.mark.parametrize(
    ("stored", "asked", "folded", "kept"),
    [
        (torch.float32, None, torch.float32, torch.float32),
        (torch.bfloat16, None, torch.float32, torch.bfloat16),
        (torch.float64, None, torch.float64, torch.float64),
        (torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(stored: torch.dtype, asked: torch.dtype, folded: torch.dtype, kept: torch.dtype) -> None:
    model = linchain(nn.Sequential(nn.Linear(5, 4)), r=2, target_modules=["0"]).to(stored)
    _, state = fold_to_lora(model, dtype=asked)
    a, b = state["base_model.model.0.lora_A.weight"], state["base_model.model.0.lora_B.weight"]
    assert (a.dtype, b.dtype) == (folded, kept)


def test_float32_folds_to_the_bits_of_the_forward() -> None:
    torch.manual_seed(0)
    model = linchain(nn.Sequential(nn.Linear(64, 4)), r=16, chain_length=8, target_modules=["0"])
    folded = fold_to_lora(model)[1]["base_model.model.0.lora_A.weight"]
    assert torch.equal(folded, model.base_model.model[0].lora_A["default"].folded_weight())


def test_the_written_config_is_stock_lora(tmp_path: Path) -> None:
    import json

    model = linchain(nn.Sequential(nn.Linear(5, 4)), chain_widths=[4, 2], lora_alpha=32, target_modules=["0"])
    config, _ = fold_to_lora(model)
    config.save_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    LoraConfig(target_modules=["0"]).save_pretrained(str(tmp_path))
    assert written.keys() == json.loads((tmp_path / "adapter_config.json").read_text()).keys()
    assert (written["peft_type"], written["r"], written["lora_alpha"]) == ("LORA", 2, 16)


def test_refusals(tmp_path: Path) -> None:
    lora = get_peft_model(nn.Sequential(nn.Linear(5, 4)), LoraConfig(target_modules=["0"]))
    with pytest.raises(LinchainError, match="needs a LinChain adapter, got one of type"):
        fold_to_lora(lora)
    with pytest.raises(LinchainError, match="expected a PeftModel or an adapter folder, got Linear"):
        fold_to_lora(nn.Linear(2, 2))
    model = linchain(nn.Sequential(nn.Linear(5, 4)), r=2, target_modules=["0"])
    model.save_pretrained(str(tmp_path))
    from safetensors.torch import save_file

    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    del tensors["base_model.model.0.lora_A.chain"]
    save_file(tensors, weights)
    with pytest.raises(LinchainError, match=r"promises a chain of 3 matrices, but no tensor holds one"):
        fold_to_lora(tmp_path)
