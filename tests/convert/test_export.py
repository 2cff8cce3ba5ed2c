"""`export`: what is written loads without linchain and computes the same, and nothing is written where it does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from linchain import LinChainConfig
from linchain.convert import export, verify
from linchain.errors import LinchainError

# PEFT's remarks on tied embeddings and on embeddings saved with an adapter
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS = torch.arange(60).view(2, 30)


@pytest.fixture(scope="module")
def gpt2(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2: Conv1D layers, biases, tied embeddings."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS)[0]


def adapter(
    base: Path, folder: Path, auto: Any = AutoModelForCausalLM, cls: Any = LinChainConfig, **options: Any
) -> Any:
    """Save a random adapter for `base` in `folder`; returns the live model."""
    torch.manual_seed(1)
    initial = {"init_weights": False} if cls is LinChainConfig else {"init_lora_weights": False}
    options = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]} | options
    model = get_peft_model(auto.from_pretrained(base), cls(**initial, **options))
    model.save_pretrained(str(folder))
    return model.eval()


STOCK = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "linchain":
            raise ImportError("linchain is not installed")

sys.meta_path.insert(0, Refuse())
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

differences = {}
for name, (kind, base, out, expected) in json.load(open(sys.argv[1])).items():
    if kind == "merged":
        model = AutoModelForCausalLM.from_pretrained(out)
        assert not hasattr(model, "peft_config")
    else:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
    with torch.no_grad():
        logits = model.eval()(torch.arange(60).view(2, 30)).logits
    expected = load_file(expected)["logits"]
    differences[name] = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
try:
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), sys.argv[2])
except Exception as error:
    differences["error"] = f"{type(error).__name__}: {error}"
assert "linchain" not in sys.modules
print(json.dumps(differences))
"""


def test_exports_load_where_linchain_cannot_be_imported(tiny_model: Path, gpt2: Path, tmp_path: Path) -> None:
    adapters: dict[str, tuple[Path, dict[str, Any]]] = {
        "llama": (tiny_model, {"r": 8, "chain_length": 3, "use_rslora": True, "lora_alpha": 4}),
        "embeddings": (tiny_model, {"chain_widths": [4, 2], "target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
        "gpt2": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj", "wte"], "use_dora": False}),
        "dora": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    }
    cases = {}
    for name, (base, options) in adapters.items():
        live = adapter(base, tmp_path / name, **options)
        save_file({"logits": logits(live).contiguous()}, tmp_path / f"{name}.safetensors")
        for to in ("lora", "merged"):
            out = tmp_path / f"{name}-{to}"
            assert export(tmp_path / name, out, to).comparison.passed
            cases[out.name] = (to, str(base), str(out), str(tmp_path / f"{name}.safetensors"))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-c", STOCK, str(tmp_path / "cases.json"), str(tmp_path / "llama")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    differences = json.loads(run.stdout.splitlines()[-1])
    # what docs/export.md says PEFT answers
    assert differences.pop("error") == "KeyError: 'LINCHAIN'"
    assert differences.keys() == cases.keys()
    assert max(differences.values()) <= 1e-5, differences


def test_a_merged_model_is_a_plain_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.generation_config.max_new_tokens = 17
    model.save_pretrained(base)
    adapter(base, tmp_path / "adapter")
    done = export(tmp_path / "adapter", tmp_path / "out", "merged")
    assert done.description == "merged LlamaForCausalLM in bfloat16"
    assert 1e-5 < done.comparison.difference <= done.comparison.tolerance < done.comparison.effect
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any("peft" in path.read_text().lower() for path in (tmp_path / "out").glob("*.json"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.bfloat16
    assert merged.generation_config.max_new_tokens == 17
    assert merged.state_dict().keys() == AutoModelForCausalLM.from_pretrained(base).state_dict().keys()

    # each weight is the exact one, rounded once
    exact = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    )
    for name, tensor in exact.merge_and_unload().state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor.bfloat16()), name


@pytest.mark.parametrize("tying", [True, False], ids=["both adapted", "one adapted"])
def test_tied_embeddings_merge(tiny_model: Path, tmp_path: Path, tying: bool) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=True)
    base.save_pretrained(tmp_path / "base")
    options = {"target_modules": ["embed_tokens"], "ensure_weight_tying": tying, "lora_alpha": 1}
    live = adapter(tmp_path / "base", tmp_path / "adapter", **options)
    assert tying == hasattr(live.get_output_embeddings(), "lora_A")
    export(tmp_path / "adapter", tmp_path / "out", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(live), rtol=1e-5, atol=1e-4)


def test_embeddings_that_stay_equal_stay_tied(gpt2: Path, tmp_path: Path) -> None:
    adapter(gpt2, tmp_path / "adapter", target_modules=["c_attn"])
    export(tmp_path / "adapter", tmp_path / "out", "merged")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_classifier_keeps_its_head_and_classes(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))

    def three_classes(path: Path) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)

    auto = type("Auto", (), {"from_pretrained": staticmethod(three_classes)})
    live = adapter(base, tmp_path / "adapter", auto, task_type="SEQ_CLS")
    export(tmp_path / "adapter", tmp_path / "plain", "merged")
    (tmp_path / "adapter" / "labels.json").write_text('["no", "maybe", "yes"]')
    assert export(tmp_path / "adapter", tmp_path / "lora", "lora").comparison.passed
    assert (tmp_path / "lora" / "labels.json").is_file()
    export(tmp_path / "adapter", tmp_path / "merged", "merged")
    for out in ("plain", "merged"):
        merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / out)
        torch.testing.assert_close(logits(merged), logits(live), rtol=1e-5, atol=1e-5)
    assert merged.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_a_resized_vocabulary(tiny_model: Path, tmp_path: Path) -> None:
    def resized(path: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(path)
        model.resize_token_embeddings(model.config.vocab_size + 3)
        return model

    live = adapter(tiny_model, tmp_path / "adapter", type("Auto", (), {"from_pretrained": staticmethod(resized)}))
    export(tmp_path / "adapter", tmp_path / "out", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(live), rtol=1e-5, atol=1e-4)


def test_a_lora_becomes_a_linchain(tiny_model: Path, tmp_path: Path) -> None:
    live = adapter(tiny_model, tmp_path / "adapter", cls=LoraConfig, r=4)
    done = export(tmp_path / "adapter", tmp_path / "out", "linchain", chain_length=2)
    assert done.description == "LinChain adapter of widths 4 → 4 → 4"
    chained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "out")
    torch.testing.assert_close(logits(chained), logits(live), rtol=1e-5, atol=1e-5)
    assert export(tmp_path / "out", tmp_path / "back", "lora").comparison.passed
    assert export(tmp_path / "adapter", tmp_path / "merged", "merged").comparison.passed


@pytest.mark.parametrize("to", ["lora", "merged"])
def test_a_wrong_export_is_not_written(
    to: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linchain.convert import base as base_module

    adapter(tiny_model, tmp_path / "adapter")
    out = tmp_path / "out"
    export(tmp_path / "adapter", out, to)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = sys.modules["linchain.convert.export"]._written

    def tampered(to: str, base: base_module.BaseModel, part: Path, batch: verify.Batch) -> list[Tensor]:
        weights = next(part.glob("*.safetensors"))
        tensors = load_file(weights)
        key = next(key for key in tensors if "q_proj" in key)
        tensors[key][0, 0] += 0.05
        save_file(tensors, weights, {"format": "pt"})
        return written(to, base, part, batch)

    monkeypatch.setattr(sys.modules["linchain.convert.export"], "_written", tampered)
    with pytest.raises(LinchainError, match="not what the adapter computes, and was not written: largest difference"):
        export(tmp_path / "adapter", out, to, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(LinchainError, match="not what the adapter computes"):
        export(tmp_path / "adapter", tmp_path / "new", to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


def test_a_lost_adapter_does_not_pass_in_16_bits(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter(tiny_model, tmp_path / "adapter", lora_alpha=0.001)
    module = sys.modules["linchain.convert.export"]

    def lost(to: str, base: Any, part: Path, batch: verify.Batch) -> list[Tensor]:
        return verify.logits(base.load(torch.float32), batch)

    monkeypatch.setattr(module, "_written", lost)
    with pytest.raises(LinchainError, match=r"was not written.*use --dtype float32, or leave it unmerged"):
        export(tmp_path / "adapter", tmp_path / "out", "merged", dtype="bfloat16")
    assert not (tmp_path / "out").exists()


def test_a_merged_decoder_classifier_takes_padded_batches(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapter", AutoModelForSequenceClassification, task_type="SEQ_CLS")
    export(tmp_path / "adapter", tmp_path / "out", "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = ["short", "a text that is rather longer"]
    with torch.no_grad():
        batch = merged(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = torch.cat([merged(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-4)


def test_not_a_number_does_not_pass() -> None:
    batch = verify.Batch([torch.tensor([[1]])], "one")
    one, nan = [torch.ones(1, 1)], [torch.full((1, 1), torch.nan)]
    assert verify.compare(one, one, one, torch.float32, batch).passed
    for before, after in ((one, nan), (nan, one), (nan, nan)):
        assert not verify.compare(before, after, one, torch.float32, batch).passed


def test_lines_of_a_file_are_compared_on(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapter")
    text = tmp_path / "text.txt"
    text.write_text("one line\n\nanother\n")
    done = export(tmp_path / "adapter", tmp_path / "out", "lora", text=text)
    assert f"2 lines of {text}" in str(done.comparison)


def test_dtype(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapter")
    done = export(tmp_path / "adapter", tmp_path / "out", "lora", dtype="bfloat16")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert done.comparison.difference > 1e-5


def test_a_run_folder_and_its_readme(tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    adapter(tiny_model, run / "adapter", r=4)
    export(run, run / "lora", "lora")
    modes = {path.stat().st_mode for path in (run / "lora").iterdir()}
    assert len(modes) == 1
    readme = (run / "lora" / "README.md").read_text()
    assert "plain LoRA adapter of rank 4" in readme
    assert "AutoModelForCausalLM" in readme
    config = json.loads((run / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)


def test_a_quantised_base(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    options = {"quantization_config": quantized, "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(tiny_model, **options).save_pretrained(tmp_path / "base")
    adapter(tmp_path / "base", tmp_path / "adapter")
    assert export(tmp_path / "adapter", tmp_path / "lora", "lora").comparison.passed
    done = export(tmp_path / "adapter", tmp_path / "merged", "merged")
    assert done.lost is not None
    assert done.lost.quantization == "bitsandbytes"
    other = export(tmp_path / "adapter", tmp_path / "other", "merged", str(tiny_model))
    assert other.lost is None


def test_the_base_model_is_not_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    adapter(tmp_path / "base", tmp_path / "adapter")
    with pytest.raises(LinchainError, match="holds what is to be exported"):
        export(tmp_path / "adapter", tmp_path / "base", "merged", overwrite=True)


def test_keys_of_a_later_peft_are_remarked_on(tiny_model: Path, tmp_path: Path) -> None:
    adapter(tiny_model, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_newest": True, "another": None}))
    with pytest.warns(UserWarning, match="unknown keys ignored: use_newest"):
        export(tmp_path / "adapter", tmp_path / "out", "lora")
