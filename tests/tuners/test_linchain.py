"""What the contract suite cannot say of every method: LinChain's equalities, its starts, its checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from linchain import LinChainConfig, LinchainError
from linchain.ops import reference

from .common import EXACT, linchain, mlp, x

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@given(st.integers(1, 8), st.integers(0, 4), st.sampled_from(DTYPES), st.booleans(), st.data())
def test_forward_equals_the_reference(r: int, n: int, dtype: torch.dtype, rslora: bool, data: st.DataObject) -> None:
    in_features, out_features, tokens = (data.draw(st.integers(1, 12)) for _ in range(3))
    options = {"chain_length": n, "r": r} if data.draw(st.booleans()) else {"chain_widths": data.draw(_widths(n))}
    base = nn.Sequential(nn.Linear(in_features, out_features, bias=False)).to(dtype)
    model = linchain(base, use_rslora=rslora, lora_alpha=3, target_modules=["0"], **{"r": None, **options})
    layer = model.base_model.model[0]
    a, b = layer.lora_A["default"], layer.lora_B["default"].weight
    factors = a.factors() if hasattr(a, "factors") else []
    rank = a.weight.shape[0]
    inputs = torch.randn(tokens, in_features, dtype=dtype)
    expected = reference.forward(
        *(t.double() for t in (inputs, layer.base_layer.weight, a.weight)),
        [factor.double() for factor in factors],
        b.double(),
        3 / (rank**0.5 if rslora else rank),
    )
    # float64 to 1e-12; below, some roundings of what is largest on the way (bf16 and fp16 bases have float32 adapters)
    size = 1 + max(t.abs().max().item() for t in (expected, inputs, layer.base_layer.weight)) * in_features
    tolerance = 1e-12 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps * size
    torch.testing.assert_close(model(inputs).double(), expected, rtol=0, atol=tolerance)


def _widths(n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 8), min_size=n + 1, max_size=n + 1)


def copy_lora(model: PeftModel, into: PeftModel) -> None:
    state = {key: value for key, value in model.state_dict().items() if ".lora_" in key and "chain" not in key}
    _, unexpected = into.load_state_dict(state, strict=False)
    assert not unexpected


def test_length_0_is_pefts_lora() -> None:
    ours = linchain(chain_length=0)
    theirs = get_peft_model(mlp(), LoraConfig(r=4, init_lora_weights=False, target_modules=["0", "2"]))
    copy_lora(ours, theirs)
    torch.testing.assert_close(ours(x()), theirs(x()), rtol=1e-12, atol=1e-12)


def test_length_1_is_moslora() -> None:
    """y = W x + s B W_m A x: MoSLoRA's mixer, written down."""
    model = linchain(chain_length=1, lora_alpha=8)
    h = x()
    for layer in (model.base_model.model[0], nn.Tanh(), model.base_model.model[2]):
        if isinstance(layer, nn.Tanh):
            h = layer(h)
            continue
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        mixer = a.chain[:, 0, :]
        h = layer.base_layer(h) + 2.0 * h @ a.weight.T @ mixer.T @ b.weight.T
    torch.testing.assert_close(model(x()), h, **EXACT)


def test_same_seed_same_a_and_b_as_lora() -> None:
    theirs_base = mlp()
    torch.manual_seed(5)
    theirs = get_peft_model(theirs_base, LoraConfig(r=4, target_modules=["0", "2"]))
    after_lora = torch.rand(1)
    ours_base = mlp()
    torch.manual_seed(5)
    ours = get_peft_model(ours_base, LinChainConfig(r=4, target_modules=["0", "2"]))
    assert torch.rand(1) == after_lora
    for key, value in get_peft_model_state_dict(theirs).items():
        assert torch.equal(value, get_peft_model_state_dict(ours)[key])


@pytest.mark.parametrize("init", ["kaiming", "orthogonal", "identity"])
def test_starts(init: str) -> None:
    for widths in ([6, 6, 6], [6, 9, 4]):
        a = linchain(
            nn.Sequential(nn.Linear(32, 8)), r=None, chain_widths=widths, init_weights=init, target_modules=["0"]
        )
        factors = a.base_model.model[0].lora_A["default"].factors()
        for factor in factors:
            short = min(factor.shape)
            gram = factor @ factor.T if factor.shape[0] == short else factor.T @ factor
            if init == "kaiming":
                assert factor.abs().max() <= factor.shape[1] ** -0.5
                assert factor.abs().max() > 0.5 * factor.shape[1] ** -0.5
            else:
                torch.testing.assert_close(gram, torch.eye(short), rtol=0, atol=1e-5)
            if init == "identity":
                assert torch.equal(factor, torch.eye(*factor.shape))
        assert len(factors) < 2 or init == "identity" or not torch.equal(factors[0], factors[1])


def test_start_does_not_depend_on_the_stored_dtype() -> None:
    from linchain.tuners.linchain.chain import Chain

    chains = []
    for dtype in (torch.float32, torch.bfloat16):
        chain = Chain()
        chain.add_chain((4, 4, 4), "orthogonal", like=torch.zeros(1, dtype=dtype), drawn=torch.ones(3))
        chains.append(chain.chain)
    assert torch.equal(chains[0].bfloat16(), chains[1])


def test_only_b_has_a_gradient_at_step_0() -> None:
    model = linchain(init_weights=True)
    model(x()).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad.abs().sum() > 0) == ("lora_B" in name), name


def test_keys_on_disk(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    linchain(chain_length=3).save_pretrained(tmp_path / "square")
    linchain(r=None, chain_widths=[4, 5, 2]).save_pretrained(tmp_path / "ragged")

    def shapes(folder: str) -> dict[str, tuple[int, ...]]:
        tensors = load_file(tmp_path / folder / "adapter_model.safetensors")
        return {key.partition(".0.")[2]: tuple(value.shape) for key, value in tensors.items() if ".0." in key}

    square, ragged = shapes("square"), shapes("ragged")
    assert square == {"lora_A.weight": (4, 10), "lora_A.chain": (4, 3, 4), "lora_B.weight": (8, 4)}
    assert ragged == {
        "lora_A.weight": (4, 10),
        "lora_A.chain_0": (5, 4),
        "lora_A.chain_1": (2, 5),
        "lora_B.weight": (8, 2),
    }


def test_rank_and_alpha_patterns() -> None:
    model = linchain(chain_length=2, rank_pattern={"2": 3}, alpha_pattern={"2": 12})
    a = model.base_model.model[2].lora_A["default"]
    assert a.chain.shape == (3, 2, 3)
    assert model.base_model.model[2].scaling["default"] == 4
    expected = model(x())
    torch.testing.assert_close(model.merge_and_unload()(x()), expected, **EXACT)


def test_injection_and_unload() -> None:
    torch.manual_seed(1)
    model = inject_adapter_in_model(LinChainConfig(r=4, init_weights=False, target_modules=["0", "2"]), mlp())
    torch.testing.assert_close(model(x()), linchain()(x()), **EXACT)
    assert torch.equal(linchain().unload()(x()), mlp()(x()))


def tiny_llama(tie: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tie,
    )
    return LlamaForCausalLM(config).double().eval()


TOKENS = torch.arange(12).reshape(2, 6)


@pytest.mark.parametrize("widths", [[4, 4, 4], [4, 6, 3], [4]])
def test_tied_embeddings_share_one_chain(widths: list[int], tmp_path: Path) -> None:
    """With ensure_weight_tying the output embedding's update is the input embedding's: one ΔW, one chain, transposed."""
    options = {"r": None, "chain_widths": widths, "target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    model = linchain(tiny_llama(tie=True), **options).eval()
    inner = model.base_model.model
    embedding, head = inner.model.embed_tokens, inner.lm_head
    torch.testing.assert_close(head.get_delta_weight("default"), embedding.get_delta_weight("default"), **EXACT)
    assert embedding.get_delta_weight("default").abs().max() > 0
    logits = model(TOKENS).logits
    reference_model = tiny_llama(tie=True)
    reference_model.model.embed_tokens.weight.data += embedding.get_delta_weight("default")
    torch.testing.assert_close(logits, reference_model(TOKENS).logits, **EXACT)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(tie=True), tmp_path).eval()
    torch.testing.assert_close(loaded(TOKENS).logits, logits, **EXACT)


@pytest.mark.parametrize("combination", ["cat", "svd", "ties_svd"])
def test_weighted_adapters_are_pefts_on_the_folded_chains(combination: str) -> None:
    from linchain.convert import fold_to_lora

    def combined(model: PeftModel) -> Tensor:
        extra = {"density": 0.7} if "ties" in combination else {}
        model.add_weighted_adapter(["default", "other"], [0.7, -0.4], "mix", combination_type=combination, **extra)
        model.set_adapter("mix")
        return model(x())

    ours = linchain(chain_length=2)
    ours.add_adapter("other", LinChainConfig(r=4, chain_length=3, init_weights=False, target_modules=["0", "2"]))
    folded = {name: fold_to_lora(ours, adapter_name=name) for name in ("default", "other")}
    theirs = get_peft_model(mlp(), folded["default"][0])
    theirs.add_adapter("other", folded["other"][0])
    for name, (_, state) in folded.items():
        set_peft_model_state_dict(theirs, state, adapter_name=name)
    before = ours(x())
    torch.testing.assert_close(combined(ours), combined(theirs), rtol=1e-9, atol=1e-9)
    assert ours.peft_config["mix"].chain_length == 0
    assert ours.peft_config["default"].chain_length == 2
    ours.set_adapter("default")
    torch.testing.assert_close(ours(x()), before, **EXACT)


def test_weighted_adapter_of_a_rank_above_the_weights_smaller_side() -> None:
    """PEFT's own fails there; what the rank has to spare is zero."""
    model = linchain(r=9)
    model.add_adapter("other", LinChainConfig(r=9, init_weights=False, target_modules=["0", "2"]))
    layer = model.base_model.model[2]  # 8 inputs, 6 outputs
    expected = 0.7 * layer.get_delta_weight("default") - 0.4 * layer.get_delta_weight("other")
    model.add_weighted_adapter(["default", "other"], [0.7, -0.4], "mix", combination_type="svd")
    assert layer.lora_A["mix"].weight.shape == (9, 8)
    assert layer.lora_B["mix"].weight.shape == (6, 9)
    torch.testing.assert_close(layer.get_delta_weight("mix"), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("combination", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_combining_factors_of_chains_is_refused(combination: str) -> None:
    model = linchain(chain_length=2)
    model.add_adapter("other", LinChainConfig(r=4, chain_length=2, target_modules=["0", "2"]))
    with pytest.raises(
        LinchainError, match=f"does not support add_weighted_adapter with combination_type='{combination}'"
    ):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mix", combination_type=combination, density=0.5)
    assert "mix" not in model.peft_config
    model.add_weighted_adapter(["default"], [0.5], "scaled", combination_type="linear")
    scaled, whole = (model.base_model.model[0].get_delta_weight(name) for name in ("scaled", "default"))
    torch.testing.assert_close(scaled, 0.5 * whole, **EXACT)


def test_cat_is_exact() -> None:
    model = linchain(chain_length=2)
    model.add_adapter("other", LinChainConfig(r=3, chain_length=1, init_weights=False, target_modules=["0", "2"]))
    model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "mix", combination_type="cat")
    layer = model.base_model.model[0]
    expected = 0.7 * layer.get_delta_weight("default") + 0.4 * layer.get_delta_weight("other")
    torch.testing.assert_close(layer.get_delta_weight("mix"), expected, **EXACT)


def test_auto_model_loads_an_adapter_folder(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    tiny_llama().save_pretrained(tmp_path / "base")
    model = linchain(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model.save_pretrained(tmp_path / "adapter")
    expected = model.eval()(TOKENS).logits
    for loaded in (
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter"),
    ):
        torch.testing.assert_close(loaded.eval()(TOKENS).logits, expected)


def test_generation_with_mixed_adapters() -> None:
    model = linchain(tiny_llama(), target_modules="all-linear", task_type="CAUSAL_LM").eval()
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    alone = model.generate(TOKENS, **options)
    mixed = model.generate(TOKENS, adapter_names=["default", "__base__"], **options)
    assert torch.equal(mixed[0], alone[0])
    with model.disable_adapter():
        assert torch.equal(mixed[1], model.generate(TOKENS, **options)[1])


def test_gradient_checkpointing_of_a_whole_model() -> None:
    grads = []
    for checkpointing in (False, True):
        model = linchain(tiny_llama(), target_modules="all-linear", task_type="CAUSAL_LM").train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        model(TOKENS, labels=TOKENS).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, **EXACT)


def test_without_linchain_pefts_answer_names_the_type(tmp_path: Path) -> None:
    """PEFT has no plug-in hook: an adapter of ours is answered with the type's name. Documented in docs/export.md."""
    linchain().save_pretrained(tmp_path)
    program = f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "KeyError: 'LINCHAIN'" in process.stderr


def test_lora_itself_is_untouched() -> None:
    model = get_peft_model(mlp(), LoraConfig(r=4, target_modules=["0"]))
    assert type(model.base_model) is LoraModel
    assert type(model.base_model.model[0]).__module__ == "peft.tuners.lora.layer"
