"""What servers of LoRA adapters make of an exported one, by the rules that their code has: nothing of theirs runs here.

- vLLM: `vllm/config/lora.py` of 0.14 (its ranks) and 0.22, `vllm/lora/peft_helper.py` and `vllm/lora/lora_weights.py` of 0.26,
  `vllm/lora/lora_model.py` at commit 0306474. It reads rank, alpha and rsLoRA's scale from the configuration, one for all
  modules, and only factors of linear layers and embeddings.
- llama.cpp: `convert_lora_to_gguf.py`, as of commit 0b03ada. It reads alpha from the configuration, the rank from each
  module's B, and nothing but the factors and norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

# What vLLM takes for --max-lora-rank, and its default.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_DEFAULT_RANK = 16

_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
_MERGE = "serve the model of --to merged instead"


def server_hints(config: LoraConfig, tensors: dict[str, Tensor]) -> list[str]:
    """What vLLM and llama.cpp need for a plain LoRA adapter, or why they cannot serve it.

    Args:
        config, tensors: The adapter, by PEFT's saved keys, as `fold_to_lora` gives it.

    Returns:
        One line for each thing to know, the server's name first. Empty: both take it as it is, where they know the base
        model's architecture, which is not looked at; nor is how vLLM lays out the experts of `target_parameters`.
    """
    common = [*_not_factors(tensors), *_convolutions(tensors)]
    if config.alpha_pattern:
        common.append("alpha_pattern, which it does not read: the scale would be wrong without a word")
    of_vllm = list(common)
    if config.rank_pattern:
        of_vllm.append("rank_pattern, which it does not read: the scale would be wrong without a word")
    of_llama = list(common)
    if config.target_parameters:
        of_llama.append("target_parameters, whose tensors it has no names for")
    if config.use_rslora:
        of_llama.append("rsLoRA's scale, which it does not read: the scale would be wrong without a word")
    lines = [_refusal("vLLM", of_vllm)] if of_vllm else _rank_for_vllm(config)
    return lines + ([_refusal("llama.cpp", of_llama)] if of_llama else [])


def _refusal(server: str, reasons: list[str]) -> str:
    return f"{server} cannot serve this adapter: it has {', and '.join(reasons)}; {_MERGE}"


def _not_factors(tensors: dict[str, Tensor]) -> list[str]:
    """Trained heads, biases, DoRA's magnitudes, trained tokens: whatever is saved beside A and B."""
    others = [key for key in tensors if not key.endswith(_FACTORS)]
    return [f"tensors that are no factors of a LoRA ({others[0]})"] if others else []


def _convolutions(tensors: dict[str, Tensor]) -> list[str]:
    shaped = [key for key, tensor in tensors.items() if key.endswith(_FACTORS) and tensor.dim() > 2]
    return [f"factors of a convolution ({shaped[0]})"] if shaped else []


def _rank_for_vllm(config: LoraConfig) -> list[str]:
    if config.r <= VLLM_DEFAULT_RANK:
        return []
    fitting = next((rank for rank in VLLM_RANKS if rank >= config.r), None)
    if fitting is None:
        return [f"vLLM serves no rank above {VLLM_RANKS[-1]}, and this adapter has {config.r}; {_MERGE}"]
    return [f"vLLM serves ranks up to {VLLM_DEFAULT_RANK} by default: start it with --max-lora-rank {fitting}"]
