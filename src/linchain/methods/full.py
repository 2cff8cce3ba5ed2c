"""Full fine-tuning: no adapter, every weight is trained."""

from __future__ import annotations

from linchain.methods.base import Method

METHODS = (
    Method(
        name="full",
        title="Full fine-tuning",
        equation="y = x W",
        paper="the method that the others approximate",
        arxiv=None,
        trains="All weights of the model, in float32.",
        use="The reference, where memory allows: weights, gradients and two moments in float32 are 16 bytes a parameter. "
        "Its best learning rate is far below LoRA's.",
        config=None,
        options=(),
        start="linchain.methods.starts:full",
        result="model",
    ),
)
