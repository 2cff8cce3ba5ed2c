"""What the parent of fresh processes imports, once, so that each of them starts at once."""

from __future__ import annotations

import transformers.models.llama.modeling_llama  # noqa: F401

import linchain.bench.memory
import linchain.tuners  # noqa: F401
