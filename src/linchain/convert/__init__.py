"""From LinChain to plain LoRA and to merged models, from LoRA and from the authors' fork to LinChain, each verified."""

from __future__ import annotations

from linchain.convert.export import export
from linchain.convert.fold import fold_to_lora
from linchain.convert.lora_to_linchain import lora_to_linchain
from linchain.convert.servers import server_hints

__all__ = ["export", "fold_to_lora", "lora_to_linchain", "server_hints"]
