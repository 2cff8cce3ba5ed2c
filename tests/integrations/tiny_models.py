"""Tiny random models of the architectures that people fine-tune, each with what to adapt in it and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

VOCAB = 96
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BERT_TARGETS = ["query", "key", "value", "intermediate.dense", "output.dense"]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        model: Name of its class in Transformers.
        sizes: Arguments of its configuration, for about 30 thousand parameters; every width is divisible by 8.
        targets: The modules to adapt, as PEFT's options: all that can be, and that its users would.
        task_type: PEFT's name of the task.
    """

    model: str
    sizes: dict[str, Any]
    targets: dict[str, Any]
    task_type: str = "CAUSAL_LM"

    def build(self) -> Any:
        """A random model, in float32; the same one every time."""
        cls = getattr(transformers, self.model)
        torch.manual_seed(0)
        return cls(cls.config_class(**{"vocab_size": VOCAB, "pad_token_id": 1} | self.sizes))

    def batch(self) -> dict[str, Tensor]:
        """Random token ids of shape (4, 12), and labels for the task."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
        labels = torch.tensor([0, 1, 1, 0]) if self.task_type == "SEQ_CLS" else ids
        return {"input_ids": ids, "labels": labels}


def _classifier(model: str, targets: list[str], **sizes: Any) -> Architecture:
    return Architecture(model, SIZES | HEADS | sizes, {"target_modules": targets}, "SEQ_CLS")


_GQA = SIZES | HEADS | {"num_key_value_heads": 2}
_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
_MIXTRAL = _GQA | {"num_local_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", _GQA, {"target_modules": LLAMA_TARGETS}),
    "mistral": Architecture("MistralForCausalLM", _GQA | {"sliding_window": 8}, {"target_modules": LLAMA_TARGETS}),
    "qwen2": Architecture("Qwen2ForCausalLM", _GQA, {"target_modules": LLAMA_TARGETS}),
    "qwen3": Architecture("Qwen3ForCausalLM", _GQA | {"head_dim": 8}, {"target_modules": LLAMA_TARGETS}),
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2},
        {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    ),
    "opt": Architecture(
        "OPTForCausalLM",
        SIZES | {"ffn_dim": 64, "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]},
    ),
    "t5": Architecture(
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        {"target_modules": ["q", "k", "v", "o", "wi", "wo"]},
        "SEQ_2_SEQ_LM",
    ),
    "bert": _classifier("BertForSequenceClassification", BERT_TARGETS),
    "roberta": _classifier("RobertaForSequenceClassification", BERT_TARGETS),
    "deberta-v3": _classifier(
        "DebertaV2ForSequenceClassification",
        ["query_proj", "key_proj", "value_proj", "intermediate.dense", "output.dense"],
        # what tells version 3's checkpoints from version 2's
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "mixtral": Architecture("MixtralForCausalLM", _MIXTRAL, {"target_modules": LLAMA_TARGETS[:4]}),
    "mixtral experts": Architecture(
        "MixtralForCausalLM", _MIXTRAL, {"target_modules": [], "target_parameters": _EXPERTS}
    ),
    "mamba": Architecture(
        "MambaForCausalLM", SIZES | {"state_size": 8, "time_step_rank": 8}, {"target_modules": ["in_proj"]}
    ),
    "rwkv": Architecture(
        "RwkvForCausalLM",
        SIZES | {"intermediate_size": 64, "context_length": 64},
        {"target_modules": ["key", "value", "receptance", "output"]},
    ),
}


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model.eval()(**batch).logits


def train(model: Any, batch: dict[str, Tensor], steps: int) -> list[float]:
    """Losses before each of `steps` steps of AdamW, and after the last."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [*losses, model(**batch).loss.item()]
