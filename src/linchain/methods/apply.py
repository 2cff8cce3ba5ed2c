"""Puts a method's adapter on a model, and says plainly which modules the model has where the targets are not among them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, first_line, is_out_of_memory, nearest

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel


# Values of `init_lora_weights` with which PEFT takes the start s·BA out of the base weight.
_MOVING_STARTS = ("pissa", "olora", "lora_ga")


def apply(model: PreTrainedModel, config: PeftConfig, *, autocast_adapter_dtype: bool = True) -> PeftModel:
    """`peft.get_peft_model`, with a user's mistakes answered by name.

    The model may lie on the meta device; its adapter does then, too, and nothing is computed from weights without data.
    `autocast_adapter_dtype` is PEFT's: whether adapters over a 16-bit base are float32.

    Raises:
        LinchainError: For target modules that the model does not have, and for whatever else PEFT cannot do with it.
    """
    import peft
    import torch

    targets = getattr(config, "target_modules", None)
    if isinstance(targets, list | tuple | set):
        check_targets(model, sorted(targets))
    elif isinstance(targets, str) and re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)+", targets):
        listed = ", ".join(re.split(r"\s*,\s*", targets))
        raise LinchainError(
            f"target_modules: {targets!r} is one text, a regular expression; a list is written [{listed}]"
        )
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if on_meta and moves_base(config):
        config = copy.copy(config)
        config.init_lora_weights = True  # type: ignore[attr-defined]
    try:
        with torch.device("meta") if on_meta else nullcontext():
            adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=autocast_adapter_dtype)
    except LinchainError:
        raise
    # what PEFT raises for values, types and modules that it cannot do with
    except (ValueError, TypeError, NotImplementedError, re.error) as error:
        raise LinchainError(
            f"{first_line(error)} The model's modules are: {', '.join(adaptable_names(model))}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise LinchainError(f"the adapter does not fit into memory ({first_line(error)}); lower r") from error
    assert isinstance(adapted, peft.PeftModel)
    return adapted


def moves_base(config: Any) -> bool:
    """Whether an adapter of this configuration starts as a part of the base weights, which are then less that part."""
    init = getattr(config, "init_lora_weights", None)
    return isinstance(init, str) and init.startswith(_MOVING_STARTS)


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse target modules of which the model has none, listing those that it has."""
    available = adaptable_names(model)
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            close = nearest(target, available)
            hint = f"; did you mean {close!r}?" if close else "."
            raise LinchainError(
                f"target_modules: the model has no module {target!r}{hint} It has: {', '.join(available)}"
            )


def adaptable_names(model: nn.Module) -> list[str]:
    """The last names of the modules that can be adapted, such as `q_proj`."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)})
