"""LinChain, LoRA with a chain of matrices between A and B, its variants, and two controls that tell what the chain does."""

from __future__ import annotations

from linchain.methods.base import LORA_OPTIONS, PROTOCOL, Method, Option
from linchain.methods.lora import LORA, LORAPLUS, LORAPLUS_OPTIMIZER, MOVES_BASE

LINCHAIN = Method(
    name="linchain",
    title="LinChain",
    equation="y = x W0 + s · x A W1 … Wn B",
    paper="Linear Chain Transformation: Expanding Optimization Dynamics for Fine-Tuning LLMs",
    arxiv="2411.00039",
    trains="A, B, and the n matrices Wi of the chain, which start Kaiming-uniform as in the paper.",
    use="The paper's method. At LoRA's own learning rate it starts slower than LoRA; search the rate.",
    config="linchain.tuners.linchain.config:LinChainConfig",
    options=(*LORA_OPTIONS, "chain_length", "chain_widths", "init_weights"),
    defaults={**PROTOCOL, "chain_length": 3},
    settled_by={"r": "chain_widths", "chain_length": "chain_widths"},
    result="foldable",
)

METHODS = (
    LINCHAIN,
    LINCHAIN.variant(
        "linchain-orthogonal",
        "LinChain, orthogonal chain",
        fixed={"init_weights": "orthogonal"},
        equation="y = x W0 + s · x A W1 … Wn B, Wi orthogonal",
        trains="As linchain; the Wi start as random orthogonal matrices, which keep the spectrum of A.",
        use="The chain to try first: it does not shrink the signal as the paper's start does.",
    ),
    LINCHAIN.variant(
        "linchain-identity",
        "LinChain, identity chain",
        fixed={"init_weights": "identity"},
        equation="y = x W0 + s · x A W1 … Wn B, Wi identity",
        trains="As linchain; the Wi start as identities, so that the first forward and the first step of B are LoRA's.",
        use="Paired comparisons with LoRA at equal A.",
    ),
    LINCHAIN.variant(
        "linchain-rslora",
        "LinChain, rsLoRA's scale",
        fixed={"use_rslora": True},
        equation="y = x W0 + s · x A W1 … Wn B, s = α/√r",
        use="The chain beside rsLoRA: a chain is only shown to help against a LoRA of the same scale.",
    ),
    LINCHAIN.variant(
        "linchain-loraplus",
        "LinChain, LoRA+ groups",
        own=(LORAPLUS,),
        equation="y = x W0 + s · x A W1 … Wn B, Wi and B fast",
        use="The chain beside LoRA+.",
        optimizer=LORAPLUS_OPTIMIZER,
        groups="As loraplus, with the Wi in B's group, the fast one: their inputs are as wide as the rank, as B's is.",
    ),
    LINCHAIN.variant(
        "linchain-pissa",
        "LinChain, PiSSA start",
        fixed={"init_weights": "identity", "init_lora_weights": "pissa"},
        # PiSSA's A and B fit an identity chain, which a chain of several widths is not
        options=tuple(option for option in LINCHAIN.options if option != "chain_widths"),
        settled_by={},
        equation="y = x (W0 - s · A0 B0) + s · x A W1 … Wn B",
        trains=f"As linchain; A and B start as in PiSSA and the Wi as identities. {MOVES_BASE}",
        use="The chain beside PiSSA.",
        result="lora",
    ),
    LINCHAIN.variant(
        "linchain-frozen",
        "LinChain, frozen chain (control)",
        equation="y = x W0 + s · x A W1 … Wn B, Wi frozen",
        frozen=r"\.chain(_\d+)?$",
        trains="A and B; the Wi stay as they start.",
        use="A control: what of LinChain's effect is its start, and what the training of the Wi.",
    ),
    LORA.variant(
        "lora-chain-start",
        "LoRA, chain start (control)",
        options=tuple(option for option in LORA_OPTIONS if option != "init_lora_weights"),
        own=(
            Option("chain_length", 3, "Number of square r × r matrices that A is multiplied by at the start."),
            Option("init_weights", True, 'Start of those matrices: True or "kaiming", "orthogonal", "identity".'),
        ),
        equation="y = x W0 + s · x A B, A from a chain",
        paper="a control of ours",
        arxiv=None,
        trains="A and B, as LoRA. A starts as A W1 … Wn, drawn as linchain draws them at the same seed.",
        use="A control: LinChain's first forward, without its parameters.",
        start="linchain.methods.starts:lora_chain_start",
    ),
)
