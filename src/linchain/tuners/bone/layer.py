"""The layer that Bone puts around a linear one: forward, merging and unmerging, for every form and several adapters.

Adapters that are active together move the weight one after another, in their order, as merging them does.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain.errors import LinchainError
from linchain.ops import block_affine, block_linear
from linchain.ops.precision import autocast_dtype
from linchain.tuners.base_output import base_output, gather, may_read_weight
from linchain.tuners.bone.config import BoneConfig
from linchain.tuners.bone.stored import Kept, row_reader

# Standard deviation of random blocks, over √r: small enough that I + B is well-conditioned.
_RANDOM_SPREAD = 0.1


class BoneLinear(nn.Module, BaseTunerLayer):
    """A linear layer, `Conv1D` or quantised linear layer with Bone's blocks.

    Args:
        base_layer: The layer to adapt; frozen.
        adapter_name: The first adapter's name.
        config: Its configuration.
        module_name: The layer's name in the model, for messages.
        kwargs: What PEFT's quantisation backends need.
    """

    adapter_layer_names = ("bone_block",)
    other_param_names = ("bone_r", "bone_form", "bone_keep_weight")

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BoneConfig, module_name: str, **kwargs: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.module_name = module_name
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **kwargs)
        self.bone_block = nn.ParameterDict({})
        self.bone_r: dict[str, int] = {}
        self.bone_form: dict[str, str] = {}
        self.bone_keep_weight: dict[str, bool] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._kept: Kept | None = None
        self.may_unmerge = True  # False while the layer is on its way to a plain one
        # share of the update that a quantised base lost when it was last merged
        self.merge_loss: float | None = None
        self.cast_input_dtype_enabled = True
        self.in_features: Any
        self.out_features: Any
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BoneConfig) -> None:
        """Add an adapter, or replace it. Its shape was checked by `BoneModel`."""
        r, form = config.r, config.form
        shape = {
            "col": (self.out_features // r, r, r),
            "row": (self.in_features // r, r, r),
            "plain": (r, self.out_features),
        }[form]
        self.bone_r[adapter_name], self.bone_form[adapter_name] = r, form
        self.bone_keep_weight[adapter_name] = config.keep_weight
        self.bone_block[adapter_name] = nn.Parameter(torch.zeros(shape))
        if not config.init_weights:
            nn.init.normal_(self.bone_block[adapter_name], std=_RANDOM_SPREAD / math.sqrt(r))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        adapters = [name for name in self.active_adapters if name in self.bone_block]
        if not adapters:
            return self.base_layer(x, *args, **kwargs)
        gather(self, *(self.bone_block[name] for name in adapters))
        return self._adapted(x, adapters, *args, **kwargs)

    def _adapted(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """The output under `adapters`, the last of which moves what the others have made of the weight."""
        if not adapters:
            return base_output(self, x, *args, **kwargs)
        *before, last = adapters
        form, blocks = self.bone_form[last], self.bone_block[last]
        if blocks.is_meta and not x.is_meta:
            raise LinchainError(
                f"{self.module_name}: the blocks of adapter {last!r} are offloaded, and nothing brings them back. Offload the "
                "base model before the adapter is put on it"
            )
        if form == "col":
            return self._col(x, blocks, before)
        base: Any = self.base_layer
        if not (before or args or kwargs) and may_read_weight(base, x):
            linear = block_linear.row_linear if form == "row" else block_linear.plain_linear
            return linear(x, blocks, base.weight, base.bias)
        if form == "row":
            mixed, total = block_affine.row_mix(x, blocks)
            y = self._adapted(mixed, before, *args, **kwargs)
            return block_affine.add_tiled(y, total.to(y.dtype))
        y = self._adapted(x, before, *args, **kwargs)
        return block_affine.add_low_rank(
            y, block_affine.sum_tiles(x, self.bone_r[last]).to(y.dtype), blocks.to(y.dtype)
        )

    def _col(self, x: Tensor, blocks: Tensor, before: list[str]) -> Tensor:
        base: Any = self.get_base_layer()
        gather(self, base.weight, base.bias)
        weight, rows = None, None
        if before:
            weight = self._moved_weight(before)
        elif self.quantization_backend is None:
            weight = _as_linear(base, base.weight)
            if weight.device != x.device:
                raise LinchainError(
                    f'{self.module_name}: the input is on {x.device}, the weight on {weight.device}. form="col" reads the '
                    'weight without calling its layer, so offloaded weights do not come to it: use form="row"'
                )
        else:
            rows = row_reader(base, self.quantization_backend)
        autocast = autocast_dtype(x)
        dtype = autocast or (x.dtype if weight is None else weight.dtype)
        bias = None if base.bias is None else base.bias.to(dtype)
        y = block_linear.col_linear(self._cast_input_dtype(x, dtype), blocks, weight, bias, rows)
        return y if autocast else y.to(x.dtype)

    def _moved_weight(self, adapters: list[str]) -> Tensor:
        """The weight (out, in) under `adapters`, dense, in its own dtype, but moved in float32 or wider."""
        weight = _as_linear(self.get_base_layer(), self.get_base_weight())
        moved = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for name in adapters:
            moved = block_affine.adapted_weight(moved, self.bone_block[name].to(moved.dtype), self.bone_form[name])
        return moved.to(weight.dtype)

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """W' − W in the shape of the base weight, in float32 or wider (full rank in general, but for "plain")."""
        base = self.get_base_layer()
        weight = _as_linear(base, self.get_base_weight())
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        blocks = self.bone_block[adapter].to(weight.dtype)
        return _as_linear(base, block_affine.adapted_weight(weight, blocks, self.bone_form[adapter]) - weight)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the adapters into the base weight, computed in float32 or wider and rounded once.

        Args:
            safe_merge: Refuse, with ValueError, weights that are not finite.
            adapter_names: Which adapters, by default the active ones.

        Raises LinchainError over a quantised weight that cannot be read or written.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.bone_block]
        if not names:
            return
        self._check_weight_is_readable("merged")
        moved = self._moved_weight(names)
        if safe_merge and not torch.isfinite(moved).all():
            raise ValueError(f"NaNs detected in the merged weights. The adapter {', '.join(names)} seems to be broken")
        keep = self.quantization_backend is not None or any(self.bone_keep_weight[name] for name in names)
        if keep and self.may_unmerge and not self.merged:
            self._kept = Kept(self.get_base_layer())
        before = self.get_base_weight() if self.quantization_backend is not None else None
        self.set_base_weight(_as_linear(self.get_base_layer(), moved).contiguous())
        if before is not None:
            self.merge_loss = _share_lost(before, moved, self.get_base_weight())
        self.merged_adapters.extend(names)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take all merged adapters out of the base weight: W = (W' − B)(I + B)⁻¹, in float64 where the device has it.

        Raises LinchainError, with the weight left merged, where less than half of the digits of W would come back and the
        original was not kept (`BoneConfig(keep_weight=True)`).
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        if self._kept is not None:
            self.base_layer = self._kept.restored()
            self._kept = None
        else:
            base = self.get_base_layer()
            merged = _as_linear(base, self.get_base_weight())
            weight = self._computed_back(merged).to(merged.dtype)
            self.set_base_weight(_as_linear(base, weight).contiguous())
        self.merged_adapters.clear()

    def _computed_back(self, merged: Tensor) -> Tensor:
        """W from W', refused where the rounding of W' would be amplified to more than half of its digits."""
        weight = merged.to(torch.float32 if merged.device.type == "mps" else torch.float64)
        size, conditions = torch.linalg.norm(weight), []
        for name in reversed(self.merged_adapters):
            blocks, form = self.bone_block[name].to(weight.dtype), self.bone_form[name]
            conditions.append(1.0 if form == "plain" else block_affine.condition(blocks))
            if not math.isfinite(conditions[-1]):
                raise self._not_unmerged("I + B is singular")
            weight = block_affine.original_weight(weight, blocks, form)
        # relative to W', rounding is eps; relative to W it is this many times as much
        found = math.prod(conditions) * float(size / torch.linalg.norm(weight)) if size else 1.0
        most = torch.finfo(merged.dtype).eps ** -0.5
        if not found <= most:
            raise self._not_unmerged(
                f"the rounding of the merged weight would be amplified {found:.3g} times (I + B has condition number "
                f"{math.prod(conditions):.3g}), and above {most:.3g} less than half of "
                f"{str(merged.dtype).removeprefix('torch.')}'s digits come back"
            )
        return weight

    def _not_unmerged(self, reason: str) -> LinchainError:
        names = ", ".join(map(repr, self.merged_adapters))
        return LinchainError(
            f"adapter {names} cannot be unmerged from {self.module_name}: {reason}. The weight is still merged: load the base "
            "model again, and next time merge with BoneConfig(keep_weight=True)"
        )

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT, but LinchainError for a merged adapter: without its blocks the weight could not be unmerged."""
        if adapter_name in self.merged_adapters:
            raise LinchainError(
                f"adapter {adapter_name!r} is merged into {self.module_name}: unmerge it before deleting it"
            )
        super().delete_adapter(adapter_name)

    def _check_weight_is_readable(self, what: str) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise LinchainError(
                f"{self.module_name} cannot be {what}: PEFT cannot read weights quantised by {backend.backend_name}"
            )

    def scale_layer(self, scale: float) -> None:
        """Bone has no scale."""
        if scale != 1:
            warnings.warn("Bone has no scale: it stays 1", stacklevel=2)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Bone has no scale."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: PEFT's `convert_to_lora` approximates ΔW by a truncated SVD of the rank that its caller names."""
        return True

    def __repr__(self) -> str:
        return "bone." + super().__repr__()

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)


def _as_linear(base: nn.Module, weight: Tensor) -> Tensor:
    """A weight between its layer's layout and (out, in): a view, transposed for Conv1D alone (both ways the same)."""
    return weight.T if isinstance(base, Conv1D) else weight


def _share_lost(before: Tensor, wanted: Tensor, stored: Tensor) -> float:
    """‖stored − wanted‖ / ‖wanted − before‖ (Frobenius): how much of an update rounding took. 0 without an update."""
    update = torch.linalg.norm(wanted.float() - before.float())
    return float(torch.linalg.norm(stored.float() - wanted.float()) / update) if update else 0.0
