"""MoSLoRA: LoRA with one square matrix between A and B."""

from __future__ import annotations

from linchain.methods.base import LORA_OPTIONS, PROTOCOL, Method

METHODS = (
    Method(
        name="moslora",
        title="MoSLoRA",
        equation="y = x W0 + s · x A W B",
        paper="Mixture-of-Subspaces in Low-Rank Adaptation",
        arxiv="2406.11909",
        trains="A, B, and a square mixer W (r × r) between them.",
        use="LinChain with a chain of one.",
        config="linchain.tuners.linchain.config:LinChainConfig",
        options=(*LORA_OPTIONS, "init_weights"),
        defaults=PROTOCOL,
        fixed={"chain_length": 1},
        result="foldable",
    ),
)
