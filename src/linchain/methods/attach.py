"""Puts a saved adapter on a model, with every tensor accounted for: PEFT itself leaves what is missing random."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linchain.errors import LinchainError, first_line
from linchain.methods.apply import moves_base
from linchain.methods.untrusted import shown
from linchain.time_limit import LONGEST, time_limit

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
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
    _check_patterns(model, config, other)
    expected = _expected(model, config, other)
    for key, tensor in tensors.items():
        if key in expected and expected[key] != tensor.shape:
            raise LinchainError(
                f"{other} {shown(key)} has shape {tuple(tensor.shape)}, the base model needs {tuple(expected[key])}"
            )
    if missing := sorted(expected.keys() - tensors.keys()):
        raise LinchainError(
            f"{what} has no {shown(missing[0])} ({len(missing)} tensors missing), which the base model needs"
        )
    adapted = _adapted(model, config, other)
    try:
        loaded: Any = peft.set_peft_model_state_dict(adapted, tensors)
    except (KeyError, RuntimeError) as error:
        raise LinchainError(f"{other} {first_line(error)}") from error
    if left_over := loaded.unexpected_keys:
        raise LinchainError(
            f"{other} it has {shown(left_over[0])} ({len(left_over)} tensors left over), for which the base model has no place"
        )
    return adapted.eval()


def _adapted(model: PreTrainedModel, config: PeftConfig, other: str) -> Any:
    import peft

    try:
        return peft.get_peft_model(model, config)
    except LinchainError:
        raise
    except Exception as error:  # an edited configuration makes PEFT raise what it likes
        raise LinchainError(f"{other} {first_line(error)}") from error


def _check_patterns(model: PreTrainedModel, config: PeftConfig, other: str) -> None:
    """Raise LinchainError where the regular expressions of `config` do not come to an end on the names of `model`'s modules.

    They are matched as PEFT matches them, which it does many times, between work that may rightly be long.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    names = [name for name, _ in model.named_modules()]
    config = copy.copy(config)
    targets = getattr(config, "target_modules", None)
    if targets in (None, "all-linear"):  # PEFT's own choice, of names
        config.target_modules = {name.rpartition(".")[2] for name in names}  # type: ignore[attr-defined]
    with time_limit(f"{other} its patterns for modules, matched with this model's, take more than {LONGEST:g} s"):
        try:
            for name in names:
                check_target_module_exists(config, name)
            for option in ("rank_pattern", "alpha_pattern"):
                # a pattern at a time: Python keeps only so many compiled
                for pattern in getattr(config, option, None) or ():
                    for name in names:
                        get_pattern_key([pattern], name)
        except LinchainError:
            raise
        except Exception as error:  # what is no pattern where PEFT puts it
            raise LinchainError(f"{other} {first_line(error)}") from error


def _expected(model: PreTrainedModel, config: PeftConfig, other: str) -> dict[str, torch.Size]:
    """The shapes that `config` asks for on `model`, by PEFT's saved keys.

    They are taken from a copy without data: a rank of 10**9 takes no memory there.
    """
    import peft

    config = copy.copy(config)
    if moves_base(config):
        config.init_lora_weights = True  # type: ignore[attr-defined]  # it would be computed from the weights
    shared = {id(tensor): _without_data(tensor) for tensor in (*model.parameters(), *model.buffers())}
    with torch.device("meta"):
        adapted = _adapted(copy.deepcopy(model, shared), config, other)
    state = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {key: tensor.shape for key, tensor in state.items()}


def _without_data(tensor: Tensor) -> Tensor:
    """A twin on the meta device; quantised weights, which PEFT asks for more than their shape, stay what they are."""
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach().to("meta"), requires_grad=tensor.requires_grad)
    return tensor.to("meta") if type(tensor) is torch.Tensor else tensor
