"""The base model with a method's adapter on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linchain import methods
from linchain.evaluation.models import load_model
from linchain.methods.apply import apply
from linchain.training.config import RunConfig
from linchain.training.prepare import PreparedData

if TYPE_CHECKING:
    from peft import PeftModel


def adapted_model(config: RunConfig, data: PreparedData) -> PeftModel:
    """Loads the base model and puts the adapter of `config.method` on it, drawn with `config.training.seed`.

    Raises LinchainError for a model that cannot be loaded and for target modules that it does not have.
    """
    import peft
    import transformers

    task_type = peft.TaskType.CAUSAL_LM if data.labels is None else peft.TaskType.SEQ_CLS
    peft_config = methods.get(config.method.name).peft_config(config.method.options, task_type=task_type)
    # the seed comes first: a classifier's head is drawn when the model is loaded
    transformers.set_seed(config.training.seed)
    model = load_model(config.model.name, data.tokenizer, config.model.dtype, data.labels)
    return apply(model, peft_config)
