"""LoRA: the method that all others here are compared with."""

from __future__ import annotations

from linchain.methods.base import LORA_OPTIONS, PROTOCOL, Method

METHOD = Method(
    name="lora",
    title="LoRA",
    equation="y = x W0 + s · x A B",
    reference="LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685",
    config="peft:LoraConfig",
    options=LORA_OPTIONS,
    defaults=PROTOCOL,
)
