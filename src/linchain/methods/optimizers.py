"""The optimizers of the methods whose paper is about the optimizer: PEFT's own implementations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, optimizers
from torch.optim import Optimizer


def loraplus(model: PeftModel, lr: float, weight_decay: float, own: Mapping[str, Any]) -> Optimizer:
    """LoRA+ (arXiv 2402.12354): AdamW with B, and a chain's matrices, at `own["loraplus_lr_ratio"]` times A's rate `lr`."""
    # by the module, not by name: linchain.tuners puts a function of its own around PEFT's
    optimizer = optimizers.create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=lr,
        loraplus_lr_ratio=own["loraplus_lr_ratio"],
        loraplus_weight_decay=weight_decay,
        fused=True,  # as the Trainer's own: one operation for all small tensors of a group
    )
    # PEFT makes groups for embeddings and vectors that may not be there; FSDP2 brings no state back into an empty one
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


def lorafa(model: PeftModel, lr: float, weight_decay: float, own: Mapping[str, Any]) -> Optimizer:
    """LoRA-FA (arXiv 2308.03303): AdamW on B's projected gradient; A, frozen already, is only read."""
    config: Any = model.active_peft_config
    return optimizers.create_lorafa_optimizer(
        model, r=config.r, lora_alpha=config.lora_alpha, lr=lr, weight_decay=weight_decay
    )
