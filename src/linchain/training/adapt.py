"""The base model with a method's adapter on it."""

from __future__ import annotations

from typing import Any

from linchain import methods
from linchain.errors import LinchainError
from linchain.evaluation.models import check_targets, linear_names, load_model
from linchain.training.config import RunConfig
from linchain.training.prepare import PreparedData


def adapted_model(config: RunConfig, data: PreparedData) -> Any:
    """Loads the base model and puts the adapter of `config.method` on it, drawn with `config.training.seed`.

    Returns a `peft.PeftModel`. Raises LinchainError for a model that cannot be loaded and for target modules that it
    does not have.
    """
    import peft
    import transformers

    task_type = peft.TaskType.CAUSAL_LM if data.labels is None else peft.TaskType.SEQ_CLS
    peft_config = methods.get(config.method.name).peft_config(config.method.options, task_type=task_type)
    # the seed comes first: a classifier's head is drawn when the model is loaded
    transformers.set_seed(config.training.seed)
    model = load_model(config.model.name, data.tokenizer, config.model.dtype, data.labels)
    targets = getattr(peft_config, "target_modules", None)
    if isinstance(targets, list | tuple | set):
        check_targets(model, sorted(targets))
    try:
        return peft.get_peft_model(model, peft_config)
    except ValueError as error:
        if isinstance(error, LinchainError):
            raise
        raise LinchainError(
            f"method {config.method.name!r} cannot adapt model {config.model.name!r}: {error} "
            f"Its modules are: {', '.join(linear_names(model))} (method.target_modules)"
        ) from error
