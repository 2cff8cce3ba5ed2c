"""What each option of a method may be: PEFT finds most mistakes while it builds the layers, or never."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from linchain.errors import nearest

BIASES = ("none", "all", "lora_only")
# The initialisations that need no configuration or data of their own. LinChain takes fewer, and says so itself.
INITS = ("gaussian", "olora", "orthogonal", "pissa")
CHAIN_INITS = ("kaiming", "orthogonal", "identity")
# The fields of peft.LoraGAConfig and what they may be.
LORA_GA = {
    "direction": ("ArBr", "A2rBr", "ArB2r", "random"),
    "scale": ("stable", "weight_svd", "gd_scale", "unit"),
}


def problem(name: str, value: Any) -> str | None:
    """What is wrong with `value` for the option `name`; None where nothing is, or where the option has no rule here."""
    if name not in _ACCEPTED:
        return None
    accepts, accepted = _ACCEPTED[name]
    if accepts(value):
        return None
    close = nearest(value, _WORDS.get(name, ())) if isinstance(value, str) else None
    return f"{name} must be {accepted}, got {value!r:.200}" + (f"; did you mean {close!r}?" if close else "")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # integers may be larger than any float
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_rank(value: Any) -> bool:
    return _is_index(value) and value > 0


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_pattern(value: Any) -> bool:
    try:
        return _is_name(value) and re.compile(value) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _is_init(value: Any) -> bool:
    return (
        _is_bool(value) or value in INITS or (isinstance(value, str) and bool(re.fullmatch(r"pissa_niter_\d+", value)))
    )


def _is_lora_ga(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) - {*LORA_GA, "stable_gamma"}:
        return False
    named = all(value[name] in accepted for name, accepted in LORA_GA.items() if name in value)
    return named and _is_rank(value.get("stable_gamma", 1))


def _list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple | set) and all(map(accepts, value))


def _mapping(key: Callable[[Any], bool], accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(key(k) and accepts(v) for k, v in value.items())


def _any_of(*kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(accepts(value) for accepts in kinds)


def _or_none(*kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or _any_of(*kinds)(value)


_NAMES, _INDICES = _list_of(_is_name), _list_of(_is_index)
_SWITCH = (_is_bool, "true or false")
_MODULES = "a list of module names such as [q_proj, v_proj], or one regular expression such as '.*_proj'"

_LORA_GA_KEYS = ", ".join(f"{name} (one of {', '.join(words)})" for name, words in LORA_GA.items())

_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a positive integer"),
    "lora_alpha": (_is_positive, "a positive number"),
    "lora_dropout": (_is_share, "at least 0 and less than 1"),
    "use_rslora": _SWITCH,
    "init_lora_weights": (_is_init, f"true, false, {', '.join(INITS)} or pissa_niter_<number>"),
    "target_modules": (_or_none(_NAMES, _is_pattern), _MODULES),
    "exclude_modules": (_or_none(_NAMES, _is_pattern), _MODULES),
    "layers_to_transform": (_or_none(_is_index, _INDICES), "the number of a layer, or a list such as [0, 1]"),
    "layers_pattern": (_or_none(_NAMES, _is_name), "the name of the list of layers, such as layers, or a list of names"),
    "rank_pattern": (_mapping(_is_pattern, _is_rank), "a mapping of modules to positive integers such as {q_proj: 8}"),
    "alpha_pattern": (_mapping(_is_pattern, _is_positive), "a mapping of modules to positive numbers such as {q_proj: 8}"),
    # PEFT takes a bare string apart into letters, and would train every module that has one of them in its name
    "modules_to_save": (_or_none(_NAMES), "a list of module names such as [lm_head]"),
    "trainable_token_indices": (
        _or_none(_INDICES, _mapping(_is_name, _INDICES)),
        "a list of token ids such as [0, 5], or a mapping of embeddings to such lists",
    ),
    "bias": (lambda value: value in BIASES, f"one of {', '.join(BIASES)}"),
    "fan_in_fan_out": _SWITCH,
    "ensure_weight_tying": _SWITCH,
    "miss_dropout": (_is_share, "at least 0 and less than 1"),
    "init_weights": (lambda value: _is_bool(value) or value in CHAIN_INITS, f"true, false, {', '.join(CHAIN_INITS)}"),
    "chain_length": (_is_index, "an integer of at least 0"),
    "loraplus_lr_ratio": (lambda value: _is_number(value) and value >= 1, "a number of at least 1"),
    "gradient_batches": (_is_rank, "a positive integer"),
    "lora_ga_config": (_is_lora_ga, f"a mapping of {_LORA_GA_KEYS} and stable_gamma (a positive integer)"),
}  # fmt: skip
# for the nearest match, where an option takes words
_WORDS = {"bias": BIASES, "init_lora_weights": INITS, "init_weights": CHAIN_INITS}
