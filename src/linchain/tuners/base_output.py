"""The base layer under an adapter: calling it for an output to be added to in place, or reading its weight instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from linchain.ops.precision import autocast_dtype

# The forwards that we know: y = x Wᵀ + b, given out as a product that nothing else holds and that no backward needs.
KNOWN_FORWARDS = (nn.Linear.forward, Conv1D.forward)


def base_output(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`layer.base_layer(x)` in memory of its own, for a PEFT layer.

    The base layer is called as a module, so that its hooks, quantisation and sharding work. Its output is copied where
    someone else may hold it: hooks may have kept it, quantised layers and forwards that we do not know may need it.
    """
    base = layer.base_layer
    y = base(x, *args, **kwargs)
    if torch.compiler.is_compiling():  # nothing is added in place then
        return y
    quantized = getattr(layer, "quantization_backend", None) is not None
    if quantized or has_hooks(base) or getattr(base.forward, "__func__", None) not in KNOWN_FORWARDS:
        return y.clone(memory_format=torch.contiguous_format)  # what is added to must be viewable as rows
    # with a bias it is a view of the product, and changing a view in place costs autograd copies of the whole
    return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y


def may_read_weight(base: nn.Module, x: Tensor) -> bool:
    """Whether a forward may compute x Wᵀ + b from the frozen weight and bias of `base`, in x's dtype, without calling it.

    Only where the call would do just that: an `nn.Linear` with its own forward and no hooks, dense tensors that are neither
    sharded nor quantised nor elsewhere, and no autocast to another dtype. A compiler gets the call.
    """
    if torch.compiler.is_compiling() or type(base) is not nn.Linear or has_hooks(base) or type(x) is not Tensor:
        return False
    if getattr(base.forward, "__func__", None) is not nn.Linear.forward or autocast_dtype(x) not in (None, x.dtype):
        return False
    return _is_frozen_like(base.weight, x) and (base.bias is None or _is_frozen_like(base.bias, x))


def gather(reader: nn.Module, *parameters: Any) -> None:
    """Makes `parameters` (tensors, or None) whole under DeepSpeed ZeRO-3, in the forward and backward of `reader`.

    ZeRO-3 gathers what a module owns when that module is called. It has to be told what else the module reads: parameters in
    a `ParameterDict`, or those of a layer within that is not called. Does nothing elsewhere.
    """
    for parameter in parameters:
        if hasattr(parameter, "ds_status"):
            from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus, register_external_parameter

            register_external_parameter(reader, parameter)
            # only from the next call on is it gathered before this
            if parameter.ds_status is ZeroParamStatus.NOT_AVAILABLE:
                parameter.all_gather()


def _is_frozen_like(parameter: Tensor, x: Tensor) -> bool:
    return (
        type(parameter) is nn.Parameter
        and not parameter.requires_grad
        and parameter.dtype == x.dtype
        and parameter.device == x.device
    )


def has_hooks(*modules: nn.Module) -> bool:
    """Whether anything is called when one of `modules` is, or when its gradient is there, beside its class's forward.

    accelerate replaces the forward of the object itself: its parameters are elsewhere until that is called.
    """
    return bool(_has_any_global_hook()) or any(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "forward" in m.__dict__
        for m in modules
    )
