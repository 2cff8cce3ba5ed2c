"""Mathematics only: torch in, torch out. Nothing here knows of PEFT or Transformers."""

from linchain.ops.chain import fold, stack, unstack

__all__ = ["fold", "stack", "unstack"]
