"""Folders of models and the files beside an adapter's: what they say, and what is loaded from them."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from functools import cache
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from fuzz.choices import Choices, scratch
from linchain import starter
from linchain.errors import LinchainError
from linchain.evaluation.models import (
    LABELS_FILE,
    adapter_labels,
    context_length,
    load_model,
    load_model_config,
    load_tokenizer,
    model_labels,
    model_task,
)
from linchain.evaluation.quantization import QUANTIZATION_FILE, adapter_quantization, stored_quantization
from linchain.methods.untrusted import check_links
from linchain.tasks.formats import get_format
from linchain.tasks.records import Record

FOLDER = scratch()
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
GENERATION, TEMPLATE, TEMPLATES = "generation_config.json", "chat_template.jinja", "additional_chat_templates"
# the keys of the files, and more that transformers reads
KEYS = {
    CONFIG: (
        "architectures", "model_type", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
        "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings", "hidden_act", "rms_norm_eps", "dtype",
        "rope_parameters", "eos_token_id", "pad_token_id", "num_labels", "id2label", "label2id", "problem_type",
        "quantization_config", "text_config", "auto_map", "tie_word_embeddings", "configuration_files", "use_cache",
        "attn_implementation", "layer_types", "transformers_version", "is_encoder_decoder", "base_model_tp_plan", "extra",
    ),
    TOKENIZER_CONFIG: (
        "tokenizer_class", "backend", "bos_token", "eos_token", "pad_token", "unk_token", "model_max_length",
        "padding_side", "truncation_side", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens",
        "chat_template", "auto_map", "vocab_file", "tokenizer_file", "init_inputs", "add_bos_token", "add_prefix_space",
        "clean_up_tokenization_spaces", "model_input_names", "split_special_tokens", "legacy", "extra",
    ),
    TOKENIZER: (
        "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
        "model",
    ),
    GENERATION: (
        "eos_token_id", "pad_token_id", "max_new_tokens", "num_beams", "do_sample", "temperature", "cache_implementation",
    ),
}  # fmt: skip
MODEL_TYPES = ("llama", "bert", "roberta", "gpt2", "mistral", "qwen2", "t5", "mamba", "rwkv", "llava", "x")
ARCHITECTURES = (["LlamaForCausalLM"], ["LlamaForSequenceClassification"], ["Trainer"], ["AutoModel"], ["x"], [])
TEMPLATES_TRIED = (
    "{{ messages }}", "{% for", "{{ a.b.c }}", "{{ 1 + 'a' }}", "{{ 1 / 0 }}", "{{ raise_exception('\x1b[2J') }}",
    "{{ ''.__class__ }}", "{{ messages | tojson }}", "{{ ''.join(1) }}", "{% include 'x' %}", "{{ range(10**9) }}",
)  # fmt: skip


def check(data: bytes) -> None:
    """One case. Nothing but LinchainError may come out of it."""
    choices = Choices(data)
    use, names = choices.pick(USES)
    _write(choices, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            use()
        except LinchainError as error:
            assert str(error).strip()  # noqa: PT017  it says what is wrong


def _write(choices: Choices, names: tuple[str, ...]) -> None:
    """The files of a good model. Up to four are changed: those of `names`, and what may lie beside them."""
    files = dict(_good())
    for entry in FOLDER.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "model.safetensors":
            entry.unlink()
    for _ in range(choices.byte() % 5):
        _change(choices, files, names)
    for name, content in files.items():
        path = FOLDER / name
        if not os.path.lexists(path.parent):
            path.parent.mkdir()
        if path.parent.is_dir() and not os.path.lexists(path):
            path.write_bytes(content)


def _change(choices: Choices, files: dict[str, bytes], names: tuple[str, ...]) -> None:
    kind = choices.byte() % 8
    name = choices.pick(names or (CONFIG,))
    kind = kind if names else 6 + kind % 2
    if kind < 4:
        try:
            values = json.loads(files[name])
            key = choices.pick(KEYS[name])
            named = {"model_type": MODEL_TYPES, "architectures": ARCHITECTURES}.get(key)
            values[key] = choices.pick(named) if named and choices.byte() % 2 else choices.value()
            files[name] = json.dumps(values).encode()
        except (ValueError, TypeError, IndexError):  # changed before to what holds no keys
            return
    elif kind == 4:
        files[name] = json.dumps(choices.value()).encode()
    elif kind == 5:
        changed = bytearray(files[name])
        for _ in range(1 + choices.byte() % 4):
            changed[(choices.byte() * 256 + choices.byte()) % len(changed)] = choices.byte()
        files[name] = bytes(changed)
    elif kind == 6:
        beside = choices.pick((LABELS_FILE, QUANTIZATION_FILE, TEMPLATE, f"{TEMPLATES}/x.jinja"))
        text = choices.pick(TEMPLATES_TRIED) if choices.byte() % 2 else choices.text()
        content = text if beside.endswith(".jinja") else json.dumps(choices.value())
        files[beside] = content.encode("utf-8", "replace")
    else:
        _link(choices)


def _link(choices: Choices) -> None:
    """A link or a pipe in the place of a file."""
    path = FOLDER / choices.pick((LABELS_FILE, TOKENIZER_CONFIG, TEMPLATE, f"{TEMPLATES}/x.jinja", TEMPLATES, "x"))
    if path.name == "x.jinja" and not os.path.lexists(path.parent):
        path.parent.mkdir()
    if os.path.lexists(path) or not path.parent.is_dir():
        return
    if choices.byte() % 4 == 1:
        os.mkfifo(path)
    else:
        path.symlink_to(
            choices.pick((path.name, ".", "..", "config.json", "/etc/hostname", "../x", "/dev/zero", "missing"))
        )


@cache
def _good() -> dict[str, bytes]:
    source = starter.model_dir()
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, pad_token_id=0))
    model.save_pretrained(FOLDER)
    tokenizer = json.loads((source / TOKENIZER).read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    tokenizer["model"] |= {"vocab": dict(list(tokenizer["model"]["vocab"].items())[:40]), "merges": []}
    files = {name: (FOLDER / name).read_bytes() for name in (CONFIG, GENERATION)}
    files |= {name: (source / name).read_bytes() for name in (TOKENIZER_CONFIG, TEMPLATE)}
    return files | {TOKENIZER: json.dumps(tokenizer).encode()}


@cache
def _tokenizer() -> Any:
    return load_tokenizer("starter")


def _read_config() -> None:
    config = load_model_config(str(FOLDER))
    stored_quantization(config)
    context_length(config)
    model_task(config)
    model_labels(config)


def _read_tokenizer() -> None:
    check_links(FOLDER)  # as wherever an adapter's folder is read
    tokenizer = load_tokenizer(str(FOLDER))
    record = Record({"messages": MESSAGES}, "row 1")
    get_format("messages", [record], "causal_lm").text(record, tokenizer)


def _read_beside() -> None:
    check_links(FOLDER)
    if (FOLDER / LABELS_FILE).exists():
        adapter_labels(FOLDER)
    adapter_quantization(FOLDER)


def _load() -> None:
    load_model(str(FOLDER), _tokenizer())


USES = (
    (_read_config, (CONFIG,)),
    (_read_tokenizer, (TOKENIZER_CONFIG, TOKENIZER)),
    (_read_beside, ()),
    (_load, (CONFIG, GENERATION)),
    (_read_config, (CONFIG,)),
    (_read_tokenizer, (TOKENIZER_CONFIG, TOKENIZER, CONFIG)),
    (_read_beside, ()),
)
