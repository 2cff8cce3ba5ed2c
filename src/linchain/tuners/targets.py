"""Which modules are adapted where `target_modules` is left out, and which are refused because nothing would train.

The defaults are PEFT's for LoRA (LinChain) and for MiSS (Bone), with the papers' own choices in their place. What a paper
did for one architecture is not carried over to others that share its module names, such as Mistral: those keep PEFT's.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_MISS_TARGET_MODULES_MAPPING,
)
from torch import nn

from linchain.errors import LinchainError

# views of PEFT's mappings, not copies: a default that a user adds there holds here too
LINCHAIN_TARGETS: Any = ChainMap[str, Any](
    {
        # the authors' scripts for LLaMA-3; their parameter counts (arXiv 2411.00039, Table 1) fit these and no others
        "llama": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
        # the authors' GLUE script, which runs DeBERTa-v3
        "deberta-v2": ["query_proj", "key_proj", "value_proj", "intermediate.dense"],
        # uncertain: the paper names RoBERTa-base for GLUE, but neither its text nor its code says which modules. These
        # are the modules of the GLUE script by RoBERTa's names
        "roberta": ["query", "key", "value", "intermediate.dense"],
    },
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)

BONE_TARGETS: Any = ChainMap[str, Any](
    {
        # the authors' fine-tuning script for LLaMA-2; 87,031,808 parameters (arXiv 2409.15371 v3) fit these seven
        "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        # The authors' RWKV-PEFT adapts every projection of its "att" and "ffn" parts. In Transformers' RWKV-4 those are
        # PEFT's default too; in flash-linear-attention's RWKV-6, whose token-shift layers hold their projection at
        # `linear`, these.
        "rwkv": ["key", "value", "receptance", "output"],
        "rwkv6": [
            *("r_proj.linear", "k_proj.linear", "v_proj.linear", "g_proj.linear", "o_proj"),
            *("key.linear", "receptance.linear", "ffn.value"),
        ],
    },
    TRANSFORMERS_MODELS_TO_MISS_TARGET_MODULES_MAPPING,
)

# Modules whose weight Transformers' Mamba mixers read themselves instead of calling the module: always (conv1d, dt_proj), or
# in the fused kernels that train on a GPU (x_proj, out_proj). PEFT refuses out_proj and conv1d, for LoRA alone.
_MAMBA, _MAMBA2 = ("conv1d", "dt_proj", "out_proj", "x_proj"), ("conv1d", "out_proj")
_READ_DIRECTLY: dict[str, tuple[str, ...]] = {
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "jamba": ("conv1d", "dt_proj"),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"), _MAMBA2),
}


def refuse_target(method: str, model: nn.Module, name: str) -> None:
    """Refuse a module on which an adapter would be silently ignored, or silently wrong.

    Args:
        method: "LinChain" or "Bone", for the message.
        model: The model that PEFT adapts.
        name: The last name of the module, such as `out_proj`.

    Raises:
        LinchainError: For modules of Mamba mixers whose weight is read without the module being called, and for modules of
            RWKV whose weight Transformers divides by a power of two for inference, which leaves an adapter as it was.
    """
    config: Any = getattr(model, "config", None)
    model_type: str = getattr(config, "model_type", "")
    if name in (refused := _READ_DIRECTLY.get(model_type, ())):
        raise LinchainError(
            f"{method}: module {name!r} is incompatible with Mamba-based models (model_type={model_type!r}), which read its "
            "weight without calling it: an adapter on it would be silently ignored. "
            f"Leave {', '.join(refused)} out of target_modules; in_proj can be adapted"
        )
    if model_type == "rwkv" and name in ("output", "value") and 0 < config.rescale_every < config.num_hidden_layers:
        raise LinchainError(
            f"{method}: for inference this RWKV halves the weights of {name!r} every {config.rescale_every} layers, but not "
            'an adapter on them. Set "rescale_every": 0 in the model\'s config.json (or model.config.rescale_every = 0 right '
            "after loading it), or leave output and value out of target_modules"
        )


def refuse_tensor_parallel(method: str, layer: nn.Module) -> None:
    """Refuse a layer that Transformers' tensor parallelism has split: an adapter would see a shard of its weight.

    Raises:
        LinchainError: For such a layer; `method` as in `refuse_target`.
    """
    if getattr(layer, "_hf_tp_plan", None) is not None:
        raise LinchainError(f"{method} does not support tensor parallelism")


def refuse_attention_output(method: str, name: str, layer: nn.Module) -> None:
    """Refuse the output projection of an `nn.MultiheadAttention`, whose weight is read without the module being called.

    Raises:
        LinchainError: For such a layer; `name` is the module's, `method` as in `refuse_target`.
    """
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        instead = "target the attention module itself, or leave" if method == "LinChain" else "leave"
        raise LinchainError(
            f"{method}: module {name!r} is the output projection of an nn.MultiheadAttention, which reads its weight without "
            f"calling it: an adapter on it would be silently ignored. Instead {instead} it out (exclude_modules)"
        )
