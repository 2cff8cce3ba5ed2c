"""What the tests of LinChain share: a small model and a random adapter on it."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from linchain import LinChainConfig

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 6)).to(dtype)


def linchain(model: nn.Module | None = None, **options) -> PeftModel:
    torch.manual_seed(1)
    options = {"r": 4, "init_weights": False, "target_modules": ["0", "2"], **options}
    return get_peft_model(mlp() if model is None else model, LinChainConfig(**options))


def x() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(3, 5, 10).double()
