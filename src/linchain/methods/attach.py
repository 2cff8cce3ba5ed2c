"""Puts a saved adapter on a model, with every tensor accounted for: PEFT itself leaves what is missing random."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, first_line

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel


def attach(
    model: PreTrainedModel, config: PeftConfig, tensors: dict[str, Tensor], what: str = "the adapter"
) -> PeftModel:
    """Put an adapter on `model`, in place, for evaluation.

    Args:
        model: The base model, on the CPU or elsewhere.
        config: The adapter's configuration; its `base_model_name_or_path` is named in messages.
        tensors: The adapter's tensors by PEFT's saved keys.
        what: The adapter, in messages.

    Raises LinchainError where it was made for another model: target modules that `model` does not have, tensors of
    other shapes, tensors that are missing or left over.
    """
    import peft

    if getattr(config, "init_lora_weights", None) == "lora_ga":
        raise LinchainError(
            f"{what} is a LoRA-GA as it is trained: it fits only the weights that its gradients moved. "
            "The adapter of a finished run fits the base model"
        )
    base = f" ({config.base_model_name_or_path})" if config.base_model_name_or_path else ""
    other = f"{what} was made for another model{base}:"
    config = copy.deepcopy(config)
    config.inference_mode = True
    config.base_model_name_or_path = None  # PEFT fills it in, and would remark on another name
    try:
        adapted: Any = peft.get_peft_model(model, config)
    except LinchainError:
        raise
    # what an edited configuration makes PEFT raise
    except (ValueError, TypeError, NotImplementedError, re.error) as error:
        raise LinchainError(f"{other} {first_line(error)}") from error
    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for key, tensor in tensors.items():
        if key in expected and expected[key].shape != tensor.shape:
            raise LinchainError(
                f"{other} {key} has shape {tuple(tensor.shape)}, the base model needs {tuple(expected[key].shape)}"
            )
    if missing := sorted(expected.keys() - tensors.keys()):
        raise LinchainError(f"{what} has no {missing[0]} ({len(missing)} tensors missing), which the base model needs")
    try:
        loaded: Any = peft.set_peft_model_state_dict(adapted, tensors)
    except (KeyError, RuntimeError) as error:
        raise LinchainError(f"{other} {first_line(error)}") from error
    if left_over := loaded.unexpected_keys:
        raise LinchainError(
            f"{other} it has {left_over[0]} ({len(left_over)} tensors left over), for which the base model has no place"
        )
    return adapted.eval()
