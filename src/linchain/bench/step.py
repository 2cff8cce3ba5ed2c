"""The step that is measured: forward, loss, backward, optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from linchain.bench.contestants import Contestant
from linchain.bench.workload import Batch, Workload

LEARNING_RATE = 1e-6  # weights stay where they are, so that the last step works on numbers like the first's


class Trainee:
    """One contestant, ready to take steps.

    Attributes:
        name, title: the contestant's.
        model: the model to train.
        device: "cpu" or "cuda".
    """

    def __init__(self, contestant: Contestant, base: Any, workload: Workload, batch: Batch) -> None:
        self.name, self.title = contestant.name, contestant.title
        self.model = contestant.build(base, workload)
        self._autocast = contestant.autocast
        self.device = workload.device
        self._batch = batch
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True) if trained else None

    def forward(self) -> Tensor:
        """The loss, a scalar. The gradient of the embeddings is asked for, whoever it is."""
        embeddings = self._batch.embeddings.detach().requires_grad_()
        with torch.autocast(self.device, torch.bfloat16, enabled=self._autocast):
            return self.model(inputs_embeds=embeddings, labels=self._batch.labels, use_cache=False).loss

    def step(self) -> None:
        """One whole training step."""
        self.backward(self.forward())

    def backward(self, loss: Tensor) -> None:
        """What follows the forward: backward and optimizer, which the frozen model does not have."""
        loss.backward()
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()
