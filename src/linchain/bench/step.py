"""The step that is measured: forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from linchain.bench.contestants import Contestant
from linchain.bench.workload import Batch, Workload

T = TypeVar("T")
LEARNING_RATE = 1e-6  # weights stay where they are, so that the last step works on numbers like the first's


class Trainee:
    """One contestant, ready to take steps. Its model is made when it is first asked for.

    Attributes:
        name, title: the contestant's.
        device: "cpu" or "cuda".
        batch: what every step is taken on.
    """

    def __init__(self, contestant: Contestant, base: Any, workload: Workload, batch: Batch) -> None:
        self.name, self.title = contestant.name, contestant.title
        self.device = workload.device
        self.batch = batch
        self._contestant, self._base, self._workload = contestant, base, workload

    @cached_property
    def model(self) -> Any:
        """The model to train."""
        return self._contestant.build(self._base, self._workload)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer | None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True) if trained else None

    def forget(self) -> None:
        """Give up the model, its gradients and the optimizer's states."""
        for made in ("model", "_optimizer"):
            self.__dict__.pop(made, None)

    def forward(self) -> Tensor:
        """The loss, a scalar. The gradient of the embeddings is asked for, whoever it is."""
        embeddings = self.batch.embeddings.detach().requires_grad_()
        with torch.autocast(self.device, torch.bfloat16, enabled=self._contestant.autocast):
            return self.model(inputs_embeds=embeddings, labels=self.batch.labels, use_cache=False).loss

    def step(self) -> None:
        """One whole training step."""
        self.backward(self.forward())

    def backward(self, loss: Tensor) -> None:
        """What follows the forward: backward and optimizer, which the frozen model does not have."""
        loss.backward()
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()


def within_memory(trainee: Trainee, work: Callable[[], T]) -> T | None:
    """What `work` gives; None where it runs out of memory, which then gets back what `trainee` holds."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # below, the error holds no tensors any more
    trainee.forget()
    torch.cuda.empty_cache()
    return None
