"""The output of a base layer, to be added to in place."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def base_output(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`layer.base_layer(x)` in memory of its own, for a PEFT layer.

    The base layer is called as a module, so that its hooks, quantisation and sharding work. Its output is copied where
    someone else may hold it: quantised layers may need it for their backward, and forward hooks may have kept it.
    """
    base = layer.base_layer
    y = base(x, *args, **kwargs)
    shared = getattr(layer, "quantization_backend", None) is not None or base._forward_hooks
    return y.clone() if shared else y
