"""Adapter folders: configurations and safetensors files of every shape, up to what is made of them on a base model."""

from __future__ import annotations

import copy
import json
import warnings
from functools import cache
from typing import Any

import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from fuzz.choices import Choices, scratch
from linchain.convert.adapter import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, read_adapter
from linchain.convert.fold import fold_adapter
from linchain.convert.fork import read_fork
from linchain.convert.lora_to_linchain import add_identity_chains
from linchain.convert.miss import bone_to_miss, miss_to_bone
from linchain.diagnostics.ranks import adapter_ranks
from linchain.errors import LinchainError
from linchain.evaluation.models import LABELS_FILE, adapter_base, adapter_labels, adapter_task
from linchain.methods.attach import attach
from linchain.methods.base import LORA_OPTIONS

FOLDER = scratch()
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {
    "peft_type": "LORA",
    "r": 2,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "b",
}
FACTORS = {f"{MODULE}.lora_A.weight": (2, 8), f"{MODULE}.lora_B.weight": (8, 2)}
# a configuration and the shapes that fit it, on the model of `_base`
ADAPTERS: tuple[tuple[dict[str, Any], dict[str, tuple[int, ...]]], ...] = (
    (LORA, FACTORS),
    (LORA | {"peft_type": "LINCHAIN", "chain_length": 3}, FACTORS | {f"{MODULE}.lora_A.chain": (2, 3, 2)}),
    (
        LORA | {"peft_type": "LINCHAIN", "chain_widths": [2, 3, 2], "chain_length": 2},
        FACTORS | {f"{MODULE}.lora_A.chain_0": (3, 2), f"{MODULE}.lora_A.chain_1": (2, 3)},
    ),
    (LORA, FACTORS | {f"{MODULE}.lora_mixer.0.weight": (2, 2), f"{MODULE}.lora_mixer.0.bias": (2,)}),
    (LORA | {"peft_type": "BONE", "form": "col"}, {f"{MODULE}.bone_block": (4, 2, 2)}),
    (LORA | {"peft_type": "BONE"}, {f"{MODULE}.bone_block": (2, 8)}),
    (LORA | {"peft_type": "MISS", "init_weights": "bat"}, {f"{MODULE}.miss_block": (4, 2, 2)}),
)
FIELDS = (
    *LORA_OPTIONS, *LORA, "chain_length", "chain_widths", "init_weights", "form", "keep_weight", "mini_r", "miss_dropout",
    "use_dora", "lora_bias", "target_parameters", "layer_replication", "megatron_config", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "arrow_config", "alora_invocation_tokens", "use_qalora", "use_bdlora",
    "runtime_config", "auto_mapping", "revision", "inference_mode", "peft_version", "enable_lora", "mixer_num",
)  # fmt: skip
LEAVES = (
    ".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_A.chain",
    ".lora_A.chain_0", ".lora_A.chain_99999999", ".lora_embedding_chain.chain", ".lora_mixer.0.weight", ".lora_AB.weight",
    ".lora_mixer." + "9" * 5000 + ".weight", ".bone_block", ".miss_block", ".weight", ".lora_magnitude_vector.weight", "",
)  # fmt: skip
SIZES = (0, 1, 2, 3, 8, 10**9, 2**62, 2**64, -1)
DTYPES = ("F32", "BF16", "F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", "")


def check(data: bytes) -> None:
    """One case. Nothing but LinchainError may come out of it."""
    choices = Choices(data)
    config, shapes = choices.pick(ADAPTERS)
    _write(choices, copy.deepcopy(config), shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _use(read_adapter(FOLDER), on_base=choices.byte() == 1)
        except LinchainError as error:
            assert str(error).strip()  # noqa: PT017  it says what is wrong


def _write(choices: Choices, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    for _ in range(choices.byte() % 4):
        config[choices.pick(FIELDS)] = choices.value()
    text = json.dumps(config).encode()
    content = _tensors(shapes)
    kind = choices.byte() % 8
    if kind == 1:
        content = _with_header(choices, shapes)
    elif kind == 2:
        changed = bytearray(content)
        for _ in range(1 + choices.byte() % 4):
            changed[(choices.byte() * 256 + choices.byte()) % len(changed)] = choices.byte()
        content = bytes(changed)
    elif kind == 3:
        text = choices.rest()
    elif kind == 4:
        content = choices.rest()
    (FOLDER / LABELS_FILE).write_text(json.dumps(choices.value() if kind == 5 else ["a", "b"]))
    (FOLDER / CONFIG_FILE).write_bytes(text)
    (FOLDER / WEIGHTS_FILE).write_bytes(content)


def _tensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    return save({key: torch.ones(shape) for key, shape in shapes.items()})


def _with_header(choices: Choices, shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A file whose header says what it likes, with offsets that fit it or do not."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    declared = list(shapes.items())
    for _ in range(choices.byte() % 3):
        shape = tuple(choices.pick(SIZES) for _ in range(choices.byte() % 5))
        declared.append((choices.pick((MODULE, "base_model.model.lm_head", "x")) + choices.pick(LEAVES), shape))
    for key, shape in declared:
        dtype = choices.pick(DTYPES)
        size = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2}.get(dtype, 1)
        for side in shape:
            size *= side
        begin, end = end, end + size if choices.byte() % 8 else choices.pick(SIZES)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + bytes(min(max(end, 0), 10_000))


@cache
def _base() -> LlamaForCausalLM:
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1))


def _use(files: AdapterFiles, on_base: bool) -> None:
    """All that is made of an adapter: ranks, other forms, and with `on_base`, which is slow, the adapted model."""
    adapter_base(FOLDER)
    adapter_task(FOLDER)
    kind, config, tensors = files.kind, files.peft_config(), files.tensors
    if kind == "fork":
        fork = read_fork(files)
        fork.output_biases()
        config, tensors = fork.linchain()
    if kind in ("linchain", "lora"):
        adapter_ranks(files)
    if kind in ("linchain", "fork"):
        fold_adapter(config, tensors)
    if kind == "lora":
        add_identity_chains(config, tensors, 2)
    if kind in ("bone-col", "bone-plain"):
        bone_to_miss(config, tensors)
    if kind == "miss-bat":
        miss_to_bone(config, tensors)
    adapter_labels(FOLDER)
    if on_base:
        attach(copy.deepcopy(_base()), config, tensors)
