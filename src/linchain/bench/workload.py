"""What is measured: a training step of one model shape on one batch, with random weights, nothing downloaded."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

DTYPES = ("bfloat16", "float32")
DEVICES = ("cpu", "cuda")
# LinChain's paper: q, k, v, up and down
TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
SIZES = ("hidden", "intermediate", "heads", "vocab")
HEAD_WIDTH = 64


@dataclass(frozen=True)
class Workload:
    """A training step to measure.

    Attributes:
        model: what `architectures.load_config` takes; None: a LLaMA of the sizes that follow.
        hidden: width of the model (1024).
        intermediate: width of its MLP (8/3 of `hidden`, rounded up to a multiple of 256).
        heads: attention heads (one for each 64 of `hidden`).
        vocab: rows of the output layer (1024).
        layers: number of decoder layers (1, or `model`'s own).
        batch_size, sequence_length: the batch is (batch_size, sequence_length) tokens, all of them labels.
        r, lora_alpha, lora_dropout: of LinChain and of every LoRA.
        chain_length: n, of LinChain.
        bone_r: block size of Bone, and of PEFT's BAT and MiSS.
        targets: names of the adapted modules.
        dtype: of the frozen weights.
        device: where it runs.
        seed: of weights, adapters and batch.
    """

    model: str | None = None
    hidden: int | None = None
    intermediate: int | None = None
    heads: int | None = None
    vocab: int | None = None
    layers: int | None = None
    batch_size: int = 1
    sequence_length: int = 256
    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    chain_length: int = 3
    bone_r: int = 64
    targets: tuple[str, ...] = TARGETS
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in a batch."""
        return self.batch_size * self.sequence_length

    @property
    def torch_dtype(self) -> torch.dtype:
        """The frozen weights' dtype."""
        import torch

        return getattr(torch, self.dtype)

    def check(self) -> None:
        """Raise LinchainError for values that make no sense; no model is looked at."""
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        if self.device not in DEVICES:
            raise unknown_name("device", self.device, DEVICES)
        for field in fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name in ("chain_length", "seed") else 1
            if isinstance(value, int) and value < smallest:
                raise LinchainError(f"{_option(field.name)} must be at least {smallest}, got {value}")
        if not 0 <= self.lora_dropout < 1:
            raise LinchainError(f"--lora-dropout must be at least 0 and less than 1, got {self.lora_dropout}")
        given = [_option(name) for name in SIZES if getattr(self, name) is not None]
        if self.model is not None and given:
            raise LinchainError(f"--model has sizes of its own: leave out {', '.join(given)} (--layers may be given)")

    def model_config(self) -> PretrainedConfig:
        """The Transformers config of the model; raises LinchainError where there is no such model."""
        return _named_shape(self) if self.model is not None else _llama(self)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _llama(workload: Workload) -> PretrainedConfig:
    from transformers import LlamaConfig

    hidden = workload.hidden or 1024
    heads = workload.heads or max(hidden // HEAD_WIDTH, 1)
    if hidden % (2 * heads):
        raise LinchainError(f"--hidden must be a multiple of twice --heads, got {hidden} and {heads}")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=hidden,
        intermediate_size=workload.intermediate or -(-hidden * 8 // 3 // 256) * 256,
        num_attention_heads=heads,
        num_hidden_layers=workload.layers or 1,
        vocab_size=workload.vocab or 1024,
        max_position_embeddings=workload.sequence_length,
    )


def _named_shape(workload: Workload) -> PretrainedConfig:
    from linchain.diagnostics import architectures
    from linchain.evaluation.models import context_length

    assert workload.model is not None
    config = architectures.load_config(workload.model)
    longest = context_length(config)
    if longest is not None and workload.sequence_length > longest:
        raise LinchainError(
            f"--sequence-length {workload.sequence_length} is more than {workload.model!r} takes: {longest}"
        )
    if not all(map(architectures.is_causal_lm, getattr(config, "architectures", None) or [])):
        raise LinchainError(f"--model {workload.model!r} is no causal language model, which bench measures")
    if workload.layers is not None:
        types = getattr(config, "layer_types", None)
        if types is not None:
            if workload.layers > len(types):
                raise LinchainError(f"--layers {workload.layers} is more than {workload.model!r} has: {len(types)}")
            config.layer_types = types[: workload.layers]
        config.num_hidden_layers = workload.layers
    return config


def build_base(workload: Workload, *, meta: bool = False) -> PreTrainedModel:
    """The frozen model in training mode, drawn with the workload's seed; `meta`: without data."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(workload.seed)
    with torch.device("meta" if meta else workload.device):
        model = AutoModelForCausalLM.from_config(
            workload.model_config(), dtype=workload.torch_dtype, attn_implementation="sdpa"
        )
    model.name_or_path = ""  # there is no checkpoint behind it for PEFT to compare with
    return model.train().requires_grad_(False)


def sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Modules of their own around the same parameters and buffers: adapters on one copy leave the others alone."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


@dataclass(frozen=True)
class Batch:
    """One fixed batch.

    Attributes:
        embeddings: (batch_size, sequence_length, hidden), in the weights' dtype. The model gets them in place of tokens, with
            a gradient asked for, so that every layer's backward is the same whatever is trained.
        labels: (batch_size, sequence_length).
    """

    embeddings: Tensor
    labels: Tensor


def draw_batch(workload: Workload, config: PretrainedConfig) -> Batch:
    """A batch of random embeddings and labels, drawn with the workload's seed."""
    import torch

    generator = torch.Generator(workload.device).manual_seed(workload.seed)
    shape = (workload.batch_size, workload.sequence_length)
    where: dict[str, Any] = {"generator": generator, "device": workload.device}
    return Batch(
        embeddings=torch.randn(*shape, config.hidden_size, **where).to(workload.torch_dtype),
        labels=torch.randint(config.vocab_size, shape, **where),
    )
