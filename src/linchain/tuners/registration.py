"""The one place that touches PEFT's registry: makes our methods known to it, and closes what would be silently wrong.

PEFT has no plug-in interface: a type must be a member of its `PeftType` enum. We add the member (a later PEFT that has it is
left as it is) and register config and model under it, as PEFT's own methods do.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from peft import optimizers
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, hotswap, loftq_utils
from peft.utils.peft_types import register_peft_method

from linchain.errors import LinchainError


def _add_peft_type(name: str) -> PeftType:
    """The member `name` of PEFT's enum, added where it is missing."""
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        # what Enum's own metaclass does for a member while it builds the class
        type.__setattr__(PeftType, name, member)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    return PeftType[name]


def _wrap(module: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace PEFT's function `name` by `wrapper(function, …)`, wherever PEFT has re-exported it."""
    original: Callable[..., Any] = getattr(module, name)
    wrapped = functools.wraps(original)(functools.partial(wrapper, original))
    for loaded in [m for n, m in sys.modules.items() if n == "peft" or n.startswith("peft.")]:
        if vars(loaded).get(name) is original:
            setattr(loaded, name, wrapped)


def _refuse_chains_in(module: Any, name: str, feature: str) -> None:
    """Make PEFT's function `name`, whose first argument is a model, refuse a model that holds chains."""

    def guarded(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        if has_chain(model):
            raise LinchainError(
                f"LinChain does not support {feature}: it pairs lora_A with lora_B as if nothing lay between"
            )
        return original(model, *args, **kwargs)

    _wrap(module, name, guarded)


LINCHAIN = _add_peft_type("LINCHAIN")
BONE = _add_peft_type("BONE")

from linchain.tuners.bone.config import BoneConfig  # noqa: E402  (needs the type)
from linchain.tuners.bone.model import BoneModel  # noqa: E402
from linchain.tuners.linchain.chain import has_chain  # noqa: E402
from linchain.tuners.linchain.config import LinChainConfig  # noqa: E402
from linchain.tuners.linchain.hotswap import pad_chained, swap_with_chains  # noqa: E402
from linchain.tuners.linchain.loraplus import speed_up_chains  # noqa: E402
from linchain.tuners.linchain.model import LinChainModel  # noqa: E402

if LINCHAIN not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="linchain", config_cls=LinChainConfig, model_cls=LinChainModel, prefix="lora_")
    hotswap.CONFIG_KEYS_TO_CHECK[LINCHAIN] = [
        *hotswap.CONFIG_KEYS_TO_CHECK[PeftType.LORA],
        "chain_length",
        "chain_widths",
    ]
    _wrap(hotswap, "_get_padded_linear", pad_chained)
    _wrap(hotswap, "_get_padded_conv2d", pad_chained)
    _wrap(hotswap, "hotswap_adapter_from_state_dict", swap_with_chains)
    _wrap(optimizers, "create_loraplus_optimizer", speed_up_chains)
    _refuse_chains_in(optimizers, "create_riemannian_optimizer", "the Riemannian optimizer")
    _refuse_chains_in(optimizers, "create_lorafa_optimizer", "LoRA-FA")
    _refuse_chains_in(loftq_utils, "replace_lora_weights_loftq", "LoftQ")

if BONE not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="bone", config_cls=BoneConfig, model_cls=BoneModel, prefix="bone_")
