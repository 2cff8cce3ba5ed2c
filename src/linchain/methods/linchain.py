"""LinChain: LoRA with a chain of matrices between A and B."""

from __future__ import annotations

from linchain.methods.base import LORA_OPTIONS, PROTOCOL, Method

METHOD = Method(
    name="linchain",
    title="LinChain",
    equation="y = x W0 + s · x A W1 W2 … Wn B",
    reference="Linear Chain Transformation: Expanding Optimization Dynamics for Fine-Tuning LLMs, arXiv 2411.00039",
    config="linchain.tuners.linchain.config:LinChainConfig",
    options=(*LORA_OPTIONS, "chain_length", "chain_widths", "init_weights"),
    defaults={**PROTOCOL, "chain_length": 3},
    settled_by={"r": "chain_widths", "chain_length": "chain_widths"},
)
