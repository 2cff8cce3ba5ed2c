"""An estimate of the memory of a training step, by part, from one step traced without allocating anything.

Formulas for activations (so many bytes for each token and layer) go stale with every attention kernel, loss and
adapter. Here the model's own forward and backward run on fake tensors, which have shapes and dtypes and no data, while
every storage's birth and death is counted. What is counted is what the step would hold.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from linchain.diagnostics.architectures import is_causal_lm
from linchain.evaluation.quantization import is_quantized, stored_bytes

ADAMW_STATES = 2  # exp_avg and exp_avg_sq, each in the parameter's dtype


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one training step holds at its peak, by part.

    Attributes:
        weights: frozen and trainable parameters and buffers, each in its own dtype; quantised ones with their scales.
        gradients: one tensor like each trainable parameter.
        optimizer: AdamW's two moments for each trainable parameter.
        activations: the most that forward and backward hold beside the three parts above: tensors saved for the
            backward, logits, loss, temporaries. None where the model's forward cannot be traced.
        assumptions: what the figures rest on, one plain sentence each.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    assumptions: tuple[str, ...]

    @property
    def total(self) -> int:
        """Sum of the parts, in bytes; without activations where they are unknown."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def estimate_training_memory(
    model: nn.Module, *, batch_size: int, sequence_length: int, gradient_checkpointing: bool = False
) -> MemoryEstimate:
    """Estimate the memory of training `model` with AdamW on batches of (batch_size, sequence_length) tokens.

    Activations are the peak, over one forward and backward, of the bytes of all storages alive beside weights and
    gradients:

        max over ops t of Σ_{storages s born by t and not yet freed} bytes(s)

    For a causal LM the loss is the model's own, with every token a label. On CPU this agrees with the allocator's peak
    to 10 % (tests/diagnostics/test_memory.py). On a GPU the allocator's rounding, workspaces of kernels and the CUDA
    context (about half a gigabyte) come on top. A quantised layer counts as one that dequantises its weight while it
    multiplies by it, forward and backward (torchao's take some more than that: 8 to 15 % of the whole where tried).

    Args:
        model: a Transformers model with or without PEFT adapters, on any device, "meta" included. It is left as it was
            and nothing the size of its weights is allocated.
        batch_size: sequences in one forward pass (the micro-batch; gradient accumulation changes nothing).
        sequence_length: tokens in each sequence, padding included.
        gradient_checkpointing: whether each layer's activations are recomputed in the backward (non-reentrant).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trainable)
    assumptions = _assumptions(model, trainable, batch_size, sequence_length, gradient_checkpointing)
    activations: int | None
    try:
        activations = _traced_peak(model, batch_size, sequence_length, gradient_checkpointing)
    except Exception as error:  # whatever a model's own code raises on tensors without data
        activations = None
        reason = str(error).partition("\n")[0]
        assumptions.append(
            f"activations not estimated: the forward cannot be traced ({type(error).__name__}: {reason})"
        )
    return MemoryEstimate(
        weights=sum(stored_bytes(t) for t in [*model.parameters(), *model.buffers()]),
        gradients=gradients,
        optimizer=ADAMW_STATES * gradients,
        activations=activations,
        assumptions=tuple(assumptions),
    )


def _assumptions(
    model: nn.Module, trainable: list[nn.Parameter], batch_size: int, sequence_length: int, checkpointing: bool
) -> list[str]:
    frozen = _dtypes(p for p in model.parameters() if not p.requires_grad)
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None) or "unknown"
    with_or_without = "with" if checkpointing else "without"
    return [
        f"frozen weights {frozen}; trainable weights, their gradients and AdamW's two moments {_dtypes(trainable)}",
        f"one batch of {batch_size} x {sequence_length} tokens, no padding, {with_or_without} gradient checkpointing",
        f"attention: {attention} (sdpa keeps no attention matrix, unless attention dropout forces it to)",
        "not counted: the allocator's rounding, workspaces of kernels, the CUDA context, data loading",
    ]


def _dtypes(parameters: Iterable[nn.Parameter]) -> str:
    names = sorted({"quantised" if is_quantized(p) else str(p.dtype).removeprefix("torch.") for p in parameters})
    return "/".join(names) or "none"


def _traced_peak(model: nn.Module, batch_size: int, sequence_length: int, gradient_checkpointing: bool) -> int:
    """Peak bytes of a fake training step beside weights and gradients."""
    device = next(model.parameters()).device
    if device.type == "meta":
        device = torch.device("cpu")  # on "meta" attention would fall back to its unfused form
    live = _LiveBytes()
    with FakeTensorMode(), _training(model, gradient_checkpointing), _dequantizing(model):
        state = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device).requires_grad_(tensor.requires_grad)
            if fake.requires_grad:
                # Held from the micro-batch before, so that the backward adds in place and gradients count once.
                fake.grad = torch.empty_like(fake)
            state[f"model.{name}"] = fake
        live.ignore([t for fake in state.values() for t in (fake, fake.grad) if t is not None])
        tokens = torch.empty(batch_size, sequence_length, dtype=torch.long, device=device)
        with live:
            torch.func.functional_call(_Step(model), state, (tokens,))
    return live.peak


class _Step(nn.Module):
    """Forward and backward in one call: checkpointed layers are recomputed while the fake parameters are in place."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.is_causal_lm = is_causal_lm(type(base).__name__)

    def forward(self, tokens: torch.Tensor) -> None:
        if self.is_causal_lm:
            loss = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        else:
            loss = self.model(input_ids=tokens).logits.float().sum()
        loss.backward()


class _DequantizedProduct(torch.autograd.Function):
    """x Wᵀ with a weight (rows, in) that is there, in `dtype`, only while x or a gradient is multiplied by it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: int, dtype: torch.dtype, keeps_x: bool) -> torch.Tensor:
        ctx.shape, ctx.dtype, ctx.kept = (rows, x.shape[-1]), dtype, x if keeps_x else None
        return nn.functional.linear(x.to(dtype), x.new_empty(ctx.shape, dtype=dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = gradients
        weight = gradient.new_empty(ctx.shape, dtype=ctx.dtype)
        return (gradient.to(ctx.dtype) @ weight).to(gradient.dtype), None, None, None


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations create, until they are freed. `peak` is in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._alive: dict[int, Any] = {}  # storage -> what keeps the entry valid

    def ignore(self, tensors: list[torch.Tensor]) -> None:
        """Leave these tensors' storages out of the count; they are kept alive so that no identity is used again."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)


@contextmanager
def _training(model: nn.Module, gradient_checkpointing: bool) -> Iterator[None]:
    """Put the model in training mode, with or without checkpointing, and restore every module's state afterwards.

    Transformers' own switch is not used: it has no inverse (it also hooks the embeddings and forgets earlier settings).
    """
    switches: list[Any] = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    if gradient_checkpointing and not switches:
        raise ValueError(f"{type(model).__name__} has no gradient checkpointing")
    attributes = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")
    kept = [(module, {a: vars(module)[a] for a in attributes if a in vars(module)}) for module in model.modules()]
    function = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    try:
        model.train()
        for module in switches:
            module.gradient_checkpointing, module._gradient_checkpointing_func = gradient_checkpointing, function
        yield
    finally:
        for module, values in kept:
            for attribute in attributes:
                vars(module).pop(attribute, None)
            vars(module).update(values)


@contextmanager
def _dequantizing(model: nn.Module) -> Iterator[None]:
    """Let quantised layers compute with dense stand-ins: their own kernels need the data of scales."""
    # an adapter's layer gives out its base layer's weight as its own
    layers: list[Any] = [module for module in model.modules() if is_quantized(module._parameters.get("weight"))]
    for layer in layers:
        layer.forward = functools.partial(_dense_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _dense_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    dtype = getattr(layer, "compute_dtype", None) or x.dtype
    eight_bit = hasattr(layer, "state")  # bitsandbytes' 8-bit product keeps its input for the backward
    y = _DequantizedProduct.apply(x, layer.out_features, dtype, eight_bit)
    return y if layer.bias is None else y + layer.bias
