"""What is computed from parameters, kept while nothing can change them unseen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Remembers:
    """Mixin for modules: in evaluation without gradients, a value is computed again only when its parameters have changed.

    So a chain is folded once, not for every token that is generated. A parameter's version tells of every change that
    PyTorch knows of. What is written through `parameter.data` is seen only after `train()`, or after `forget()`.
    """

    _remembered: dict[Hashable, tuple[list, Any]] | None = None

    def remembered(self, key: Hashable, parameters: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, or gave for this key and these parameters as they are."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
            return compute()
        state = []
        for p in parameters:
            if type(p) is not nn.Parameter or p.is_inference():  # nothing tells of its changes
                return compute()
            state.append((p.data_ptr(), p._version))
        values = self._remembered or {}
        if key not in values or values[key][0] != state:
            values[key] = (state, compute())
            self._remembered = values
        return values[key][1]

    def forget(self) -> None:
        """Compute anew when next asked."""
        self._remembered = None

    def train(self, mode: bool = True) -> Any:
        self.forget()
        return super().train(mode)  # type: ignore[misc]


def forget_all(model: nn.Module) -> None:
    """Every module of `model` computes anew what it remembers: after its parameters were written through `.data`."""
    for module in model.modules():
        if isinstance(module, Remembers):
            module.forget()
