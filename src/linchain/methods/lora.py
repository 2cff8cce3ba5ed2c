"""LoRA, the method that all others here are compared with, and its variants: PEFT's own implementations."""

from __future__ import annotations

from linchain.methods.base import LORA_OPTIONS, PROTOCOL, Method, Option

LORAPLUS = Option("loraplus_lr_ratio", 16, "The learning rate of B over that of A, at least 1.")
LORAPLUS_OPTIMIZER = "linchain.methods.optimizers:loraplus"
MOVES_BASE = (
    "The base weight starts as W0 - s · A0 B0, and the adapter is saved as a plain LoRA of rank 2r for W0 itself."
)

LORA = Method(
    name="lora",
    title="LoRA",
    equation="y = x W0 + s · x A B",
    paper="LoRA: Low-Rank Adaptation of Large Language Models",
    arxiv="2106.09685",
    trains="A (in × r) and B (r × out); A starts random, B zero.",
    use="The baseline: cheap, known to every server.",
    config="peft:LoraConfig",
    options=LORA_OPTIONS,
    defaults=PROTOCOL,
)

METHODS = (
    LORA,
    LORA.variant(
        "rslora",
        "rsLoRA",
        fixed={"use_rslora": True},
        equation="y = x W0 + s · x A B, s = α/√r",
        paper="A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
        arxiv="2312.03732",
        trains="A and B, as LoRA. At r 16 the scale is 4 times LoRA's.",
        use="Ranks above 16, where LoRA's scale α/r grows too small.",
    ),
    LORA.variant(
        "dora",
        "DoRA",
        fixed={"use_dora": True},
        # the other starts assume that the update is s · A B alone
        options=tuple(option for option in LORA_OPTIONS if option != "init_lora_weights"),
        equation="y = x (m ∘ V/‖V‖), V = W0 + s · A B",
        paper="DoRA: Weight-Decomposed Low-Rank Adaptation",
        arxiv="2402.09353",
        trains="A, B, and the magnitude m of each output of the weight, which starts as that of W0.",
        use="Small ranks, where time and memory beyond LoRA's are no matter.",
        result="dense",
    ),
    LORA.variant(
        "loraplus",
        "LoRA+",
        own=(LORAPLUS,),
        equation="y = x W0 + s · x A B, B fast",
        paper="LoRA+: Efficient Low Rank Adaptation of Large Models",
        arxiv="2402.12354",
        trains="A and B, as LoRA.",
        use="LoRA that learns too slowly; search the learning rate anew, below LoRA's.",
        optimizer=LORAPLUS_OPTIMIZER,
        groups="AdamW: B at loraplus_lr_ratio times the learning rate, A at the learning rate, adapted embeddings at 1e-6. "
        "Of what is trained in full beside the adapter, vectors go with B and matrices with A.",
    ),
    LORA.variant(
        "pissa",
        "PiSSA",
        fixed={"init_lora_weights": "pissa"},
        equation="y = x (W0 - s · A0 B0) + s · x A B, SVD of W0",
        paper="PiSSA: Principal Singular Values and Singular Vectors Adaptation",
        arxiv="2404.02948",
        trains=f"A and B, which start as the r largest singular values and vectors of W0. {MOVES_BASE}",
        use="Fast first steps without a look at the data. One singular value decomposition a weight, at the start.",
    ),
    LORA.variant(
        "olora",
        "OLoRA",
        fixed={"init_lora_weights": "olora"},
        equation="y = x (W0 - s · A0 B0) + s · x A B, QR of W0",
        paper="OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models",
        arxiv="2406.01775",
        trains=f"A and B, which start as r columns and rows of W0's QR decomposition. {MOVES_BASE}",
        use="As PiSSA, with a cheaper decomposition.",
    ),
    LORA.variant(
        "lora-ga",
        "LoRA-GA",
        fixed={"init_lora_weights": "lora_ga"},
        defaults={"lora_ga_config": {}},
        options=(*LORA_OPTIONS, "lora_ga_config"),
        own=(Option("gradient_batches", 8, "Training batches of which the mean gradient is taken for the start."),),
        equation="y = x (W0 - s · A0 B0) + s · x A B, SVD of ∇W",
        paper="LoRA-GA: Low-Rank Adaptation with Gradient Approximation",
        arxiv="2407.05000",
        trains=f"A and B, which start as singular vectors of the loss's gradient at W0. {MOVES_BASE}",
        use="First steps as close to full fine-tuning's as rank r allows; needs the gradients of the adapted weights once.",
        start="linchain.methods.starts:lora_ga",
    ),
    LORA.variant(
        "lora-fa",
        "LoRA-FA",
        equation="y = x W0 + s · x A B, A frozen",
        paper="LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning",
        arxiv="2308.03303",
        trains="B alone; A stays as it was drawn.",
        use="Memory: without a gradient for A, the layer's input need not be kept.",
        # PEFT's optimizer would freeze it too, but after the report of what is trained
        frozen=r"\.lora_(embedding_)?A\.",
        optimizer="linchain.methods.optimizers:lorafa",
        groups="PEFT's LoRA-FA, one learning rate: AdamW on the gradient that B would need to follow the full gradient, "
        "(AᵀA)⁻¹ times B's own over s². A head that is trained in full has plain AdamW.",
    ),
)
