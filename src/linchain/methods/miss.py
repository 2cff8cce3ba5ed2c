"""MiSS and its BAT form, as PEFT has them: the rivals that carry on the Bone paper."""

from __future__ import annotations

from linchain.methods.base import Method

MISS = Method(
    name="miss",
    title="MiSS",
    equation="y = x W0 + (Σ_c x_c) D",
    paper="MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure",
    arxiv="2409.15371",
    trains="D (r × out), zero at the start; x is cut into pieces x_c of width r, whose sum D is applied to.",
    use="Half of LoRA's parameters at equal rank on a square weight.",
    config="peft:MissConfig",
    options=(
        "r",
        "miss_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ),
    fixed={"init_weights": True},
    result="foldable",
)

METHODS = (
    MISS,
    MISS.variant(
        "miss-bat",
        "MiSS-BAT",
        fixed={"init_weights": "bat"},
        equation="y = x W'ᵀ, W'_ac = W_ac (I + B_a) + B_a",
        trains="One r × r block B_a for each r outputs of the weight, zero at the start.",
        use="PEFT's own implementation of bone-col, to compare ours with: the same updates, but it keeps tensors of the "
        "weights' size for the backward, and so needs far more memory. r must divide both sizes of each weight.",
        result="dense",
    ),
)
