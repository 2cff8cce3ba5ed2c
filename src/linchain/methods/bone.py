"""Bone, block-affine adaptation, in its two forms."""

from __future__ import annotations

from linchain.methods.base import Method

COL = Method(
    name="bone-col",
    title="Bone, a block for each block row",
    equation="y = x W'ᵀ, W'_ac = W_ac (I + B_a) + B_a",
    paper="Bone: Block-Affine Adaptation of Large Language Models",
    arxiv="2409.15371v3",
    trains="One r × r block B_a for each r outputs of the weight, zero at the start.",
    use="The paper's form for LLaMA. Its step costs full fine-tuning's matrix products; r must divide both sizes of "
    "each weight.",
    config="linchain.tuners.bone.config:BoneConfig",
    options=(
        "r",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ),
    fixed={"form": "col"},
    result="dense",
)

METHODS = (
    COL,
    COL.variant(
        "bone-row",
        "Bone, a block for each block column",
        fixed={"form": "row"},
        equation="y = x W'ᵀ, W'_ac = W_ac (I + B_c) + B_c",
        trains="One r × r block B_c for each r inputs of the weight, zero at the start.",
        use="The paper's form for RWKV: computed from activations alone, so it is cheaper and works over quantised bases.",
    ),
)
