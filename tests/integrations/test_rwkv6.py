"""RWKV-6 of flash-linear-attention, whose kernels need a CUDA GPU: what recipes/rwkv6.yaml adapts trains and merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from linchain import BoneConfig, LinChainConfig
from linchain.training.load_config import load_config
from linchain.tuners.targets import BONE_TARGETS
from tests.integrations.tiny_models import logits, train

CONFIGS: dict[str, Any] = {
    "bone-row": BoneConfig(r=16, form="row"),
    "bone-col": BoneConfig(r=16, form="col"),
    "linchain": LinChainConfig(r=4, init_weights="orthogonal", target_modules=BONE_TARGETS["rwkv6"]),
}


@pytest.mark.parametrize("method", CONFIGS)
def test_rwkv6(method: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("flash-linear-attention needs a CUDA GPU")
    reason = "flash-linear-attention is not installed"
    fla = pytest.importorskip("fla.models", reason=reason, exc_type=ImportError)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "intermediate_size": 256, "vocab_size": 96}
    base = fla.RWKV6ForCausalLM(fla.RWKV6Config(**sizes, proj_low_rank_dim=16, gate_low_rank_dim=16)).cuda()
    ids = torch.randint(96, (2, 80), device="cuda")  # more than 64 tokens: the kernels for training
    batch = {"input_ids": ids, "labels": ids}
    before = logits(base, batch)

    model = get_peft_model(base, CONFIGS[method])
    assert len(model.targeted_module_names) == 2 * 8  # five projections of the time mixing, three of the channel mixing
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    losses = train(model, batch, steps=2)
    assert losses[-1] < losses[0]
    for key, p in model.named_parameters():
        assert torch.equal(p, start[key]) != p.requires_grad, key
    adapted = logits(model, batch)
    merged = logits(model.merge_and_unload(), batch)
    # the kernels multiply in TF32 or bfloat16
    assert (merged - adapted).abs().max() < 0.1 * (adapted - before).abs().max()


def test_recipe_adapts_what_is_adapted_by_default() -> None:
    recipe = load_config(Path(__file__).parents[2] / "recipes" / "rwkv6.yaml")
    assert recipe.method.options["target_modules"] == BONE_TARGETS["rwkv6"]
