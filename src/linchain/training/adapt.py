"""The base model with a method's adapter on it, or to be trained in full."""

from __future__ import annotations

from typing import Any

import torch

from linchain import methods
from linchain.convert.moved_base import check_moved
from linchain.evaluation.models import load_model, load_model_config
from linchain.evaluation.quantization import check_method, stored_quantization
from linchain.tasks.encoding import collate, pad_token_id
from linchain.training.config import RunConfig
from linchain.training.prepare import PreparedData
from linchain.training.trainer import head_loss


def adapted_model(config: RunConfig, data: PreparedData) -> Any:
    """Loads the base model and puts the adapter of `config.method` on it, drawn with `config.training.seeds`.

    Raises LinchainError for a model that cannot be loaded and for target modules that it does not have.
    """
    import peft
    import transformers

    task_type = peft.TaskType.CAUSAL_LM if data.labels is None else peft.TaskType.SEQ_CLS
    method = methods.get(config.method.name)
    method.peft_config(config.method.options, task_type=task_type)  # a mistake in the options comes before the loading
    if stored := stored_quantization(load_model_config(config.model.name)):
        check_method(f"a checkpoint quantised by {stored}", method.name, config.method.options)
    # the seed comes first: a classifier's head is drawn when the model is loaded
    transformers.set_seed(config.training.seeds["init"])
    base = config.model
    model = load_model(base.name, data.tokenizer, base.dtype, data.labels, quantization=base.quantization)
    adapted = method.adapt(
        model, config.method.options, lambda count: _backward(model, config, data, count), task_type=task_type
    )
    check_moved(adapted)
    return adapted


def _backward(model: Any, config: RunConfig, data: PreparedData, count: int) -> None:
    """Forward and backward over `count` training batches, drawn with the run's seed of data; gradients add up."""
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())  # the trainer would move it a little later
    generator = torch.Generator().manual_seed(config.training.seeds["data"])
    order = torch.randperm(len(data.train), generator=generator).tolist()
    size = config.training.batch_size
    for first in range(0, min(count * size, len(order)), size):
        inputs = collate([data.train[index] for index in order[first : first + size]], pad_token_id(data.tokenizer))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        if data.labels is None:
            loss = model(**inputs, use_cache=False).loss
        else:
            labels = inputs.pop("labels")
            loss = head_loss(model(**inputs), labels)
        loss.backward()
