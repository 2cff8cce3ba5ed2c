"""Exports of adapters that were trained over a quantised base: into which weights they merge, and what is said to be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from linchain import BoneConfig, LinChainConfig
from linchain.convert import export
from linchain.evaluation import quantization
from linchain.evaluation.models import load_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

IDS = torch.arange(60).view(2, 30)
TARGETS = ["q_proj", "down_proj"]


def adapter(kind: Any, base: Path, folder: Path, cls: Any = LinChainConfig, **options: Any) -> Any:
    """Save a random adapter for `base` quantised to `kind` as a run leaves it; returns the live model."""
    pytest.importorskip(quantization._PACKAGES[kind])
    model = load_model(str(base), AutoTokenizer.from_pretrained(base), quantization=kind)
    torch.manual_seed(1)
    config = cls(r=4, init_weights=False, task_type="CAUSAL_LM", target_modules=TARGETS, **options)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(str(folder))
    (folder / "quantization.json").write_text(json.dumps({"quantization": kind, "dtype": "auto"}))
    return adapted.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize(("kind", "most"), [("nf4", 1e-5), ("int8", 0.1), ("torchao-int8", 1e-5)])
def test_merging_says_what_it_loses(kind: str, most: float, tiny_model: Path, tmp_path: Path) -> None:
    """Nothing but rounding, where the quantised layer only dequantises; LLM.int8() also rounds what it multiplies."""
    live = adapter(kind, tiny_model, tmp_path / "adapter")
    done = export(tmp_path / "adapter", tmp_path / "merged", "merged")
    assert done.comparison.passed
    assert done.lost is not None
    assert done.lost.quantization == kind
    assert done.lost.share < most
    assert (done.lost.share > 1e-4) == (kind == "int8")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    share = torch.linalg.norm(logits(merged) - logits(live)) / torch.linalg.norm(logits(live))
    assert share < 2 * most
    # merged into the checkpoint's own weights it would be another model
    (tmp_path / "adapter" / "quantization.json").unlink()
    assert export(tmp_path / "adapter", tmp_path / "other", "merged").lost is None
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    assert (logits(other) - logits(merged)).abs().max() > 1e-2


def test_a_lora_needs_no_quantised_base_and_says_that_there_was_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter("nf4", tiny_model, tmp_path / "adapter")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    done = export(tmp_path / "adapter", tmp_path / "lora", "lora")
    assert done.comparison.passed
    assert done.lost is None
    assert (tmp_path / "lora" / "quantization.json").read_bytes() == (
        tmp_path / "adapter" / "quantization.json"
    ).read_bytes()


def test_a_lora_close_to_bone_is_close_to_what_it_was_over_the_quantised_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    adapter("nf4", tiny_model, tmp_path / "adapter", BoneConfig, form="col")
    found = export(tmp_path / "adapter", tmp_path / "lora", "lora", svd_rank=32).approximation
    assert found is not None
    assert found.error < 1e-5
    merged = export(tmp_path / "adapter", tmp_path / "merged", "merged")
    again = export(tmp_path / "lora", tmp_path / "merged again", "merged")
    assert merged.lost is not None
    assert again.lost is not None
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("merged", "merged again"))
    torch.testing.assert_close(logits(one), logits(two), rtol=1e-4, atol=1e-3)
