"""The README.md inside an exported adapter: what it is, and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from peft import LoraConfig

_FRONT = """---
base_model: {base}
library_name: peft
tags:
- {tag}
---

# {title}

"""

_LORA = """A {description} for `{base}`, for stock PEFT and for whatever reads its adapters. It was trained with a chain
between A and B, which linchain {version} folded into them; that is exact, and linchain is not needed to use it.

```python
from peft import PeftModel
from transformers import {auto}

model = PeftModel.from_pretrained({auto}.from_pretrained("{base}"), "path/to/this/folder")
```
"""

_LINCHAIN = """A {description} for `{base}`, converted by linchain {version}. It computes what the adapter
that it was made from computes, and can be trained on.

```python
import linchain  # registers LinChain with PEFT
from peft import PeftModel
from transformers import {auto}

model = PeftModel.from_pretrained({auto}.from_pretrained("{base}"), "path/to/this/folder", is_trainable=True)
```
"""


def adapter_readme(config: LoraConfig, description: str, auto: str, version: str) -> str:
    """The text for an adapter whose base model loads with the transformers class `auto`."""
    linchain = isinstance(config, LinChainConfig)
    tag, title, body = ("linchain", "LinChain adapter", _LINCHAIN) if linchain else ("lora", "LoRA adapter", _LORA)
    values = {"base": config.base_model_name_or_path, "description": description, "auto": auto, "version": version}
    return (_FRONT + body).format(tag=tag, title=title, **values)
