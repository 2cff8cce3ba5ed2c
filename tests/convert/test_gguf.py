"""An exported LoRA as the GGUF adapter that llama.cpp reads, written here by the rules of its `convert_lora_to_gguf.py`.

The script is a part of llama.cpp and of no package, so what is tested is not the script, but that our exports have what it
needs: names that gguf's own table maps, a rank that every B shows, and one alpha.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from linchain import LinChainConfig
from linchain.convert import fold_to_lora, server_hints
from linchain.convert.adapter import adapted_modules, factor_keys
from tests.integrations.tiny_models import ARCHITECTURES

gguf = pytest.importorskip("gguf")

PREFIX = "base_model.model."
ARCHES = {"llama": "LLAMA", "mistral": "LLAMA", "mixtral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}


def mapped_name(module: str, architecture: str, layers: int) -> str | None:
    """What llama.cpp calls a module's weight; None where it has no such tensor."""
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture), layers)
    return names.get_name(module.removeprefix(PREFIX))


def interleaved(b: Tensor, heads: int) -> Tensor:
    """Rows of a head, two halves in Transformers' rotary embedding, in llama.cpp's order: the halves by turns."""
    return b.reshape(heads, 2, -1, b.shape[1]).transpose(1, 2).reshape(b.shape)


def heads_of(name: str, base: Any) -> int | None:
    """The heads whose rows are put in another order: of a Llama's queries and keys."""
    return {"attn_q": base.num_attention_heads, "attn_k": base.num_key_value_heads}.get(name.rsplit(".", 1)[-1])


def write_gguf(config: Any, tensors: dict[str, Tensor], base: Any, path: Path) -> None:
    """The plain LoRA of a Llama as a GGUF adapter."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config.lora_alpha))
    for module in adapted_modules(tensors):
        name = mapped_name(module, "LLAMA", base.num_hidden_layers)
        a, b = (tensors[key] for key in factor_keys(module, tensors))
        if heads := heads_of(name, base):
            b = interleaved(b, heads)
        writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a.numpy()))
        writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ARCHES)
def test_llama_cpp_has_a_name_for_every_module(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model = get_peft_model(architecture.build(), LinChainConfig(r=4, task_type="CAUSAL_LM", **architecture.targets))
    config, tensors = fold_to_lora(model)
    assert not server_hints(config, tensors)
    mapped = {mapped_name(module, ARCHES[name], 2) for module in adapted_modules(tensors)}
    assert None not in mapped
    assert len(mapped) == 2 * len(architecture.targets["target_modules"])


def test_it_has_none_for_stacked_experts() -> None:
    """Why `server_hints` refuses target_parameters for llama.cpp."""
    architecture = ARCHITECTURES["mixtral experts"]
    model = get_peft_model(architecture.build(), LinChainConfig(r=4, task_type="CAUSAL_LM", **architecture.targets))
    tensors = fold_to_lora(model)[1]
    assert all(mapped_name(module, "LLAMA", 2) is None for module in adapted_modules(tensors))


@pytest.mark.parametrize(
    "chain", [{"r": 8, "chain_length": 3}, {"chain_widths": [8, 4, 8]}, {"rank_pattern": {"v_proj": 2}}]
)
def test_the_file_holds_the_update_of_the_chain(tiny_model: Path, tmp_path: Path, chain: dict[str, Any]) -> None:
    targets = {"target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    config = LinChainConfig(init_weights=False, lora_alpha=24, **targets, **chain)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    base = model.config
    write_gguf(*fold_to_lora(model), base, tmp_path / "adapter.gguf")

    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    alpha = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA).contents()
    # the reader's shapes are in GGUF's order, its data in ours
    stored = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    layers = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert len(stored) == 2 * len(layers) == 16
    for module, layer in layers.items():
        name = mapped_name(module, "LLAMA", base.num_hidden_layers)
        a, b = stored[f"{name}.weight.lora_a"], stored[f"{name}.weight.lora_b"]
        update = layer.get_delta_weight("default")
        if heads := heads_of(name, base):
            update = interleaved(update, heads)
        # llama.cpp's scale: alpha over the rank that B shows
        torch.testing.assert_close(alpha / b.shape[1] * b @ a, update, rtol=1e-4, atol=1e-5)
