"""Quantised bases: which methods train over them, that training and loading again agree, and that dense again is the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from linchain import methods
from linchain.errors import LinchainError
from linchain.evaluation import quantization
from linchain.evaluation.models import load_adapter, load_model
from linchain.evaluation.quantization import adapter_quantization, dequantized, load_options, stored_bytes
from linchain.tasks.sentence_pair import Labels
from linchain.training.load_config import build_config

KINDS = ("nf4", "int8", "torchao-int8")
REFUSED = {"full", "pissa", "olora", "lora-ga", "linchain-pissa"}
IDS = torch.arange(2, 42).view(2, 20)
# bitsandbytes' and torchao's remarks on casts and binaries
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def load(kind: Any, model: Path, dtype: str = "auto", **options: Any) -> Any:
    """The model quantised to `kind`; skips the test where the library is missing."""
    pytest.importorskip(quantization._PACKAGES[kind])
    return load_model(str(model), AutoTokenizer.from_pretrained(model), dtype, quantization=kind, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def settings(**model: Any) -> dict[str, Any]:
    return {"model": {"name": "starter", **model}, "data": {}, "output": "out"}


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_the_saved_adapter_gives_the_same_logits(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    options = {"r": 4, "target_modules": "all-linear"}
    torch.manual_seed(0)
    model = methods.get("linchain").adapt(load(kind, tiny_model), options, task_type="CAUSAL_LM").train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    logits(model)  # evaluation comes before the training
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(6):
        losses.append(model.train()(input_ids=IDS, labels=IDS).loss)
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_adapter(load(kind, tiny_model), tmp_path)), logits(model))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_trains_over_nf4_or_is_refused(name: str, tiny_model: Path) -> None:
    values = settings(quantization="nf4") | {"method": name}
    if name in REFUSED:
        with pytest.raises(LinchainError, match=f"model.quantization nf4 does not go with method '{name}'"):
            build_config(values)
        return
    build_config(values)
    model = methods.get(name).adapt(load("nf4", tiny_model), {"r": 4}, task_type="CAUSAL_LM")
    logits(model)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_start_out_of_the_weights_is_refused_as_an_option_too() -> None:
    values = settings(quantization="int8") | {"method": {"name": "lora", "init_lora_weights": "pissa"}}
    with pytest.raises(LinchainError, match="'lora' and its start, which is taken out of the weights"):
        build_config(values)


def test_an_unknown_quantization_names_those_there_are() -> None:
    with pytest.raises(
        LinchainError, match=r"model.quantization: must be 'nf4', 'int8' or 'torchao-int8', found 'nf5'"
    ):
        build_config(settings(quantization="nf5"))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for kind, package in (("nf4", "bitsandbytes"), ("torchao-int8", "torchao")):
        with pytest.raises(LinchainError, match=rf"{kind} needs {package}: pip install 'linchain\[quantization\]'"):
            quantization.check_installed(kind)


def test_a_checkpoint_that_is_quantised_is_not_quantised_again(tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = AutoConfig.from_pretrained(tiny_model)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(LinchainError, match=r"the model is quantised already \(gptq\); leave the key out"):
        load_options("nf4", "auto", config)


def test_nf4_is_qloras(tiny_model: Path) -> None:
    """Double quantisation, products in the asked dtype, and all that is not quantised in float32."""
    model = load("nf4", tiny_model, "bfloat16")
    layer = model.model.layers[0].self_attn.q_proj
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested, state.blocksize) == ("nf4", True, 64)
    assert (layer.compute_dtype, state.dtype) == (torch.bfloat16, torch.bfloat16)
    rest = {p.dtype for name, p in model.named_parameters() if "_proj" not in name}
    assert rest == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_never_packed_for_kernels_without_a_backward(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)  # as processors with AVX512-BF16 say
    layers = [module for module in load("nf4", tiny_model).modules() if isinstance(module, modules.Linear4bit)]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_classifiers_head_stays_dense(tiny_model: Path) -> None:
    model = load("nf4", tiny_model, labels=Labels(("no", "yes")))
    assert type(model.score) is torch.nn.Linear
    adapted = methods.get("linchain").adapt(model, {"r": 4}, task_type="SEQ_CLS")
    assert adapted.get_submodule("base_model.model.score.modules_to_save.default").weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_dense_again_computes_the_same(kind: str, tiny_model: Path) -> None:
    quantised = load(kind, tiny_model).train()  # in evaluation LLM.int8() rounds what it multiplies, too
    with torch.no_grad():
        expected = quantised(IDS).logits
    dense = dequantized(quantised)
    assert all(type(m) is torch.nn.Linear for name, m in dense.named_modules() if name.endswith("proj"))
    assert not hasattr(dense.config, "quantization_config")
    torch.testing.assert_close(logits(dense), expected, rtol=1e-5, atol=1e-4)


def test_gpt2s_transposed_weights_are_turned_back(tiny_model: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    plain = GPT2LMHeadModel(GPT2Config(**sizes))
    plain.save_pretrained(tmp_path)
    quantised = load("nf4", tmp_path)
    expected = logits(quantised)
    dense = dequantized(quantised)
    assert {name: p.shape for name, p in dense.named_parameters()} == {
        name: p.shape for name, p in plain.named_parameters()
    }
    torch.testing.assert_close(logits(dense), expected, rtol=1e-5, atol=1e-4)


def test_bytes_are_those_that_are_stored(tiny_model: Path) -> None:
    """For 64 weights of 4 bits a scale of 8; a byte a weight and a float32 a row, with torchao a zero point, too."""
    found = {kind: stored_bytes(load(kind, tiny_model).model.layers[0].mlp.up_proj.weight) for kind in KINDS}
    weights = 32 * 48
    codes = 4 * (16 + 256 + 1)  # nf4's and the scales' tables, and the one scale of the scales
    assert found["nf4"] == weights // 2 + weights // 64 + codes
    assert found["int8"] == weights + 48 * 4
    assert found["torchao-int8"] == weights + 48 * (4 + 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "expected the keys quantization and dtype, found \\[\\]"),
        ('{"quantization": "nf4"}', "expected the keys quantization and dtype"),
        ('{"quantization": "nf3", "dtype": "auto"}', "unknown quantization in .*'nf3'; did you mean 'nf4'"),
        ('{"quantization": "nf4", "dtype": ["auto"]}', "unknown dtype in"),
    ],
)
def test_a_strangers_file_is_checked(text: str, message: str, tmp_path: Path) -> None:
    assert adapter_quantization(tmp_path) == {}
    (tmp_path / "quantization.json").write_text(text)
    with pytest.raises(LinchainError, match=message):
        adapter_quantization(tmp_path)


def test_a_run_and_its_adapter_are_evaluated_over_the_quantised_base(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    from linchain.training.evaluate import Question, evaluate_target
    from linchain.training.run import train

    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"What is {i}?", "output": f"It is {i}."} for i in range(12)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": {"name": str(tiny_model), "quantization": "nf4"},
        "method": {"name": "linchain", "r": 4},
        "data": {"train": "data.jsonl", "test": "data.jsonl"},
        "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "gradient_checkpointing": True},
        "output": "run",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train(build_config(values))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    assert result["parameters"]["total"] - result["parameters"]["trainable"] == plain
    before, after = (result["scores"][stage][0] for stage in ("before", "after"))
    assert after["value"] < before["value"]
    assert adapter_quantization(Path("run/adapter")) == {"quantization": "nf4", "dtype": "auto"}
    for target in ("run", "run/adapter"):
        answer = evaluate_target(Question(target, None, {"data.test": ["data.jsonl"]}, output=f"{len(target)}.jsonl"))
        assert answer.scores[0].value == after["value"]
