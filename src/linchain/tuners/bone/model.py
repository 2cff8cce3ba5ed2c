"""`BoneModel`: PEFT's tuner that puts Bone's layers into a model, and checks first that its blocks fit."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTuner, _get_in_out_features, _maybe_include_all_linear_layers
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from torch import nn
from transformers.pytorch_utils import Conv1D

from linchain.errors import LinchainError
from linchain.tuners.base_output import KNOWN_FORWARDS
from linchain.tuners.bone.config import BoneConfig
from linchain.tuners.bone.layer import BoneLinear
from linchain.tuners.targets import BONE_TARGETS, refuse_attention_output, refuse_target, refuse_tensor_parallel

# what PEFT asks for before it says that a layer is torchao's; needed to merge, not to recognise it
_NO_SUBCLASS: dict[str, Any] = {"get_apply_tensor_subclass": lambda: None}


class BoneModel(BaseTuner):
    """Creates a Bone model from a pretrained one (arXiv 2409.15371 v3).

    Args:
        model: The model to adapt, in place.
        config: A `BoneConfig`.
        adapter_name: Name of the adapter.
        low_cpu_mem_usage: Create the adapter on the meta device; its values come with a checkpoint.

    >>> from peft import get_peft_model
    >>> from torch import nn
    >>> from linchain import BoneConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 32)), BoneConfig(r=8, form="row", target_modules=["0"]))
    >>> {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    {'base_model.model.0.bone_block.default': (8, 8, 8)}
    """

    prefix: str = "bone_"
    tuner_layer_cls = BoneLinear
    target_module_mapping = BONE_TARGETS
    # BaseTuner's own reads the weight of a classification head, which may be several layers
    _replace_module: Any = lora.LoraModel._replace_module

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Refuse blocks that do not fit before the first module is replaced."""
        config = _maybe_include_all_linear_layers(copy.copy(peft_config), model)
        modules = dict(model.named_modules())
        inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, BoneLinear))
        targets = {
            name: module
            for name, module in modules.items()
            if name and not name.startswith(inside) and self._check_target_module_exists(config, name)
        }
        _check_rank(peft_config, {name: _widths(peft_config, name, module) for name, module in targets.items()})

    def _check_target_module_compatiblity(self, peft_config: Any, model: nn.Module, target_name: str) -> None:
        refuse_target("Bone", model, target_name)

    def _create_and_replace(  # type: ignore[override]
        self,
        config: BoneConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        _check_rank(config, {current_key: _widths(config, current_key, target)})
        if isinstance(target, BoneLinear):
            target.update_layer(adapter_name, config)
            return
        layer = BoneLinear(target, adapter_name, config, current_key, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:
            # adding an additional adapter: it is not automatically trainable
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT would drop `adapter_names` silently."""
        if kwargs.get("adapter_names") is not None:
            raise LinchainError("Bone does not support batches of several adapters (adapter_names)")
        yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge as `peft.PeftModel.merge_adapter`; over a quantised base, say what was lost."""
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)
        _warn_of_losses(self.model)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        layers = [module for module in self.model.modules() if isinstance(module, BoneLinear)]
        for layer in layers:
            layer.may_unmerge = False
        model = super()._unload_and_optionally_merge(merge, **kwargs)
        if merge:
            _warn_of_losses(*layers)
        return model


def _widths(config: BoneConfig, name: str, module: nn.Module) -> tuple[int, int]:
    """(in, out) of a module; LinchainError for one that Bone does not adapt."""
    base: Any = module.get_base_layer() if isinstance(module, BoneLinear) else module
    refuse_tensor_parallel("Bone", base)
    refuse_attention_output("Bone", name, base)
    _check_kind(config, name, base)
    features_in, features_out = _get_in_out_features(base)
    assert features_in is not None
    assert features_out is not None
    return features_in, features_out


def _check_rank(config: BoneConfig, widths: dict[str, tuple[int, int]]) -> None:
    """Raise LinchainError where r does not fit one of the modules, whose (in, out) are given by name."""
    for name, (features_in, features_out) in widths.items():
        if config.form == "plain":
            if config.r > features_in:
                raise LinchainError(
                    f"r={config.r} is more than target module {name!r} takes: its inputs have {features_in}"
                )
        elif features_in % config.r or features_out % config.r:
            common = math.gcd(*itertools.chain(*widths.values()))
            fitting = ", ".join(str(r) for r in range(1, common + 1) if common % r == 0)
            raise LinchainError(
                f"r={config.r} does not fit target module {name!r}: its weight is {features_out} x {features_in}, and bone-"
                f"{config.form} cuts both widths into blocks of r. Block sizes that fit "
                f"{'it' if len(widths) == 1 else f'all {len(widths)} target modules'}: {fitting}"
            )


def _check_kind(config: BoneConfig, name: str, base: nn.Module) -> None:
    if isinstance(base, nn.Linear | Conv1D):
        own_forward = type(base).forward not in KNOWN_FORWARDS
        if config.form == "col" and own_forward and resolve_quantization_backend(base, **_NO_SUBCLASS) is None:
            raise LinchainError(
                f'target module {name!r} is a {type(base).__name__} with a forward of its own, which form="col" would '
                'replace: use form="row"'
            )
    elif getattr(resolve_quantization_backend(base, **_NO_SUBCLASS), "layer_type", None) != "linear":
        raise LinchainError(
            f"target module {name!r} is a {type(base).__name__}: Bone adapts linear layers (nn.Linear, Conv1D, and "
            "quantised ones)"
        )


def _warn_of_losses(*modules: nn.Module) -> None:
    """One warning for all layers whose quantised weights were rounded anew."""
    losses = {}
    for root in modules:
        for module in root.modules():
            if isinstance(module, BoneLinear) and module.merge_loss is not None:
                losses[module.module_name] = module.merge_loss
                module.merge_loss = None
    if losses:
        worst = max(losses, key=lambda name: losses[name])
        mean = sum(losses.values()) / len(losses)
        warnings.warn(
            f"merged into quantised weights, which were quantised anew: {100 * mean:.0f} % of the update was lost on "
            f"average (Frobenius norm), {100 * losses[worst]:.0f} % in {worst}. Keep the adapter unmerged to lose nothing",
            stacklevel=3,
        )
