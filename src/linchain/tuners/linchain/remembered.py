"""What is computed from parameters, kept while nothing can change them unseen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class Remembers:
    """Mixin for modules: in evaluation without gradients, a value is computed once for a prompt and its generated tokens.

    So a chain is not folded for every token. Every other forward computes anew. Between the tokens, a parameter's version tells
    of what is written into it, and the optimizers' steps are counted, because fused ones write unseen. Moving, loading and
    `train()` forget everything.
    """

    _remembered: dict[Hashable, tuple[Sequence[Tensor], list, Any]] | None = None

    def remembered(
        self, x: Tensor, key: Hashable, parameters: Sequence[Tensor], compute: Callable[[], Any], number: float = 1.0
    ) -> Any:
        """What `compute` gives for the module's input x, (*, tokens, width).

        For a single token it may be what it gave last for this key, if that was for `number` and these parameters as they are.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
            return compute()
        if parameters[0].is_cuda and torch.cuda.is_current_stream_capturing():  # a graph would hold on to the memory
            return compute()
        state: list = [number, _steps]
        for p in parameters:
            if type(p) is not nn.Parameter or p.is_inference():  # nothing tells of its changes
                return compute()
            state.append((id(p), p.data_ptr(), p._version))
        values = self._remembered or {}
        is_step = x.dim() > 2 and x.shape[-2] == 1
        if not is_step or key not in values or values[key][1] != state:
            # the parameters are held: nothing else gets their id or memory
            values[key] = (parameters, state, compute())
            self._remembered = values
        return values[key][2]

    def forget(self) -> None:
        """Compute anew when next asked."""
        self._remembered = None

    def train(self, mode: bool = True) -> Any:
        self.forget()
        return super().train(mode)  # type: ignore[misc]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.forget()
        return super()._apply(*args, **kwargs)  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_remembered"}


_steps = 0


def _count_step(*_: Any) -> None:
    global _steps
    if not torch.compiler.is_compiling():  # a compiled step tells the parameters' versions
        _steps += 1


register_optimizer_step_post_hook(_count_step)


def forget_all(model: nn.Module) -> None:
    """Every module of `model` computes anew what it remembers: after its parameters were written through `.data`."""
    for module in model.modules():
        if isinstance(module, Remembers):
            module.forget()
