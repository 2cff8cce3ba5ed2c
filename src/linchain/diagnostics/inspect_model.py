"""What a method costs on a model, before anything is trained: parameters, adapter size, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linchain import methods
from linchain.diagnostics import architectures
from linchain.diagnostics.memory import MemoryEstimate, estimate_training_memory
from linchain.diagnostics.parameters import (
    ModuleParameters,
    parameter_counts,
    parameters_by_module,
    saved_size,
)
from linchain.errors import LinchainError, unknown_name
from linchain.evaluation.models import context_length

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelReport:
    """A method on a model.

    Attributes:
        model: name or path, as given.
        architecture: the Transformers class.
        method: the method's name.
        trainable: trainable parameters.
        total: all parameters, the adapter's included.
        modules: the trainable parameters by module.
        saved_bytes: size of what a run saves as safetensors: the adapter, or the model where it is trained in full.
        memory: estimate for one training step.
    """

    model: str
    architecture: str
    method: str
    trainable: int
    total: int
    modules: list[ModuleParameters]
    saved_bytes: int
    memory: MemoryEstimate

    @property
    def percent(self) -> float:
        """Trainable parameters in percent of all, the adapter's included (as PEFT counts)."""
        return 100 * self.trainable / self.total


def inspect_model(
    model: str,
    method: str,
    options: Mapping[str, Any],
    *,
    dtype: str = "auto",
    batch_size: int = 4,
    sequence_length: int = 256,
    gradient_checkpointing: bool = False,
) -> ModelReport:
    """Build the model as the method trains it on the meta device, and count.

    Args:
        model: a shipped architecture, "starter", a folder with a config.json, or a Hub name.
        method: a method of the catalogue.
        options: the method's options.
        dtype: of the frozen weights; "auto" is the config's own. What is trained is float32, as PEFT keeps it.
        batch_size: sequences in a forward pass, for the memory estimate.
        sequence_length: tokens of a sequence, for the memory estimate.
        gradient_checkpointing: for the memory estimate.

    Raises:
        LinchainError: For an unknown model, method, option, dtype or target module, or numbers that make no sense.
    """
    import torch

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    for key, value in (("batch size", batch_size), ("sequence length", sequence_length)):
        if value < 1:
            raise LinchainError(f"{key} must be at least 1, got {value}")
    chosen = methods.get(method)
    chosen.peft_config(options)  # a mistake in the options comes before the model is looked for
    config = architectures.load_config(model)
    longest = context_length(config)
    if longest is not None and sequence_length > longest:
        raise LinchainError(f"sequence length {sequence_length} is more than {model!r} takes: {longest}")
    base = architectures.build(config, None if dtype == "auto" else getattr(torch, dtype))
    architecture = type(base).__name__
    task = "CAUSAL_LM" if architectures.is_causal_lm(architecture) else "SEQ_CLS"
    adapted = chosen.adapt(base, options, task_type=task)
    trainable, total = parameter_counts(adapted)
    return ModelReport(
        model=model,
        architecture=architecture,
        method=method,
        trainable=trainable,
        total=total,
        modules=parameters_by_module(adapted),
        saved_bytes=saved_size(adapted, chosen.peft_config(options)),
        memory=estimate_training_memory(
            adapted,
            batch_size=batch_size,
            sequence_length=sequence_length,
            gradient_checkpointing=gradient_checkpointing,
        ),
    )
