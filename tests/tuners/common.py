"""What tests of the tuners share: a small model, a random adapter on it, and what PEFT's former Bone wrote."""

from __future__ import annotations

from typing import Any

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


def former_bone_config(init_weights: bool | str, r: int, target_modules: list[str], **others: str) -> dict[str, Any]:
    """adapter_config.json as PEFT 0.15 wrote it for its own Bone: no `form`."""
    empty = ("auto_mapping", "base_model_name_or_path", "exclude_modules", "layers_pattern", "layers_to_transform",
             "modules_to_save", "revision", "task_type")  # fmt: skip
    given = {"init_weights": init_weights, "r": r, "target_modules": target_modules}
    return dict.fromkeys(empty) | {"bias": "none", "inference_mode": True, "peft_type": "BONE"} | given | others
