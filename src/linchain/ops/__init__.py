"""Mathematics only: torch in, torch out. Nothing here knows of PEFT or Transformers."""

from linchain.ops.chain import fold

__all__ = ["fold"]
