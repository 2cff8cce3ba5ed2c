"""The README.md inside an exported adapter: what it is, and how to use it."""

from __future__ import annotations

from typing import Any

from linchain.convert.conversion import Converted

_TEXT = """---
base_model: {base}
library_name: peft
tags:
- {tag}
---

# {title}

A {description} for `{base}`{readers}. {origin}

```python
{imports}from peft import PeftModel
from transformers import {auto}

model = PeftModel.from_pretrained({auto}.from_pretrained("{base}"), "path/to/this/folder"{trainable})
```
"""
_STOCK = ", for stock PEFT and for whatever reads its adapters"
_TITLES = {"LORA": "LoRA", "LINCHAIN": "LinChain", "BONE": "Bone", "MISS": "MiSS"}


def adapter_readme(adapter: Converted, auto: str, version: str) -> str:
    """The text for an adapter whose base model loads with the transformers class `auto`."""
    config: Any = adapter.config
    kind = config.peft_type.value
    ours = kind in ("LINCHAIN", "BONE")
    return _TEXT.format(
        base=config.base_model_name_or_path,
        tag=kind.lower(),
        title=f"{_TITLES[kind]} adapter",
        description=adapter.description,
        readers="" if ours else _STOCK,
        origin=adapter.origin.format(version=version),
        imports=f"import linchain  # registers {_TITLES[kind]} with PEFT\n" if ours else "",
        auto=auto,
        trainable="" if kind == "LORA" else ", is_trainable=True",
    )
