"""Bad input of every kind, and what is answered: one row each, through the function that the commands call.

tests/cli/test_bad_input.py has what users get wrong on the command line; here is what files from strangers hold.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from linchain import starter
from linchain.convert.adapter import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from linchain.convert.base import BaseModel
from linchain.errors import LinchainError
from linchain.evaluation.models import (
    LABELS_FILE,
    adapter_base,
    adapter_labels,
    load_model,
    load_model_config,
    load_tokenizer,
    model_path,
)
from linchain.lab.plan import load_plan
from linchain.methods.attach import attach
from linchain.tasks.formats import get_format
from linchain.tasks.records import read_records
from linchain.tasks.sentence_pair import find_labels
from linchain.training.load_config import load_config
from linchain.training.run_folder import RunFolder

Attempt = Callable[[Path], Any]

RUN = "model: starter\ndata: {train: a.jsonl}\n"
PLAN = "methods: [lora, linchain]\noptions: {target_modules: [q_proj]}\nlearning_rates: [1e-3]\n"
PLAN += RUN.replace("}", ", test: b.jsonl}")
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)
TEXTS = f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 1000)}]\n"
HEX, SEXAGESIMAL = "0x" + "f" * 6000, "1" + ":1" * 3000
NEVER = "((([a-z_.0-9]+)+)+)+!"  # a pattern that tries every way to cut a name into parts
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
A, B, CHAIN = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight", f"{MODULE}.lora_A.chain"
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PAIR = {"sentence1": "one", "label": 1}


def config(text: str = RUN, *overrides: str) -> Attempt:
    """Loads a configuration."""
    return lambda folder: load_config(_written(folder / "run.yaml", text), overrides)


def plan(*overrides: str, text: str = PLAN) -> Attempt:
    """Loads a plan."""
    return lambda folder: load_plan(_written(folder / "plan.yaml", text), overrides)


def data(name: str, content: str | bytes, task: str = "causal_lm", form: str = "auto") -> Attempt:
    """Reads a file, finds its format, and for a classification its classes."""

    def attempt(folder: Path) -> None:
        records = read_records(str(_written(folder / name, content)), "train")
        get_format(form, records, task)
        if task == "sequence_classification":
            find_labels(records)

    return attempt


def rows(*records: dict[str, Any], **options: Any) -> Attempt:
    """Reads records from JSONL."""
    return data("rows.jsonl", "".join(json.dumps(record) + "\n" for record in records), **options)


def adapter(read: Callable[[Path], Any] = read_adapter, **fields: Any) -> Attempt:
    """Reads a LinChain adapter whose configuration has other values in `fields`."""

    def attempt(folder: Path) -> None:
        _good_adapter(folder)
        file = folder / CONFIG_FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        read(folder)

    return attempt


def tensors(fields: dict[str, Any] | None = None, **changed: Any) -> Attempt:
    """Reads an adapter with other tensors; None leaves one out. `A`, `B` and `CHAIN` stand for their keys."""

    def read(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS_FILE) | {
            {"A": A, "B": B, "CHAIN": CHAIN}.get(k, k): t for k, t in changed.items()
        }
        save_file({key: tensor for key, tensor in stored.items() if tensor is not None}, folder / WEIGHTS_FILE)
        read_adapter(folder)

    return adapter(read, **(fields or {}))


def file(name: str, content: str | bytes, read: Callable[[Path], Any] = read_adapter) -> Attempt:
    """Reads an adapter one of whose files holds something else."""
    return adapter(lambda folder: read(_written(folder / name, content).parent))


def header(**entries: Any) -> Attempt:
    """Reads an adapter whose safetensors file declares `entries` and holds 64 bytes."""
    declared = json.dumps({A: {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}, **entries}).encode()
    return file(WEIGHTS_FILE, len(declared).to_bytes(8, "little") + declared + bytes(64))


def link(name: str, target: str) -> Attempt:
    """Reads an adapter with a symbolic link in its folder."""

    def read(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)
        load_tokenizer(str(folder)) if name == "x" else read_adapter(folder)

    return adapter(read)


def pipe(name: str, read: Callable[[Path], Any]) -> Attempt:
    """Reads an adapter with a pipe in its folder, whose reading would never end."""

    def attempt(folder: Path) -> None:
        os.mkfifo(folder / name)
        read(folder)

    return adapter(attempt)


def model(name: str, content: Any, read: Callable[[str], Any] = load_model_config) -> Attempt:
    """Reads the starter's folder with other content in the file `name`: a text, or values beside those that are there."""

    def attempt(folder: Path) -> None:
        shutil.copytree(starter.model_dir(), folder, dirs_exist_ok=True)
        old = (folder / name).read_text()
        _written(folder / name, content if isinstance(content, str) else json.dumps(json.loads(old) | content))
        read(str(folder))

    return attempt


def _weights(folder: str) -> None:
    load_model(folder, load_tokenizer("starter"))


def _class(folder: str) -> None:
    BaseModel(folder, SimpleNamespace(task_type=None), {}, Path(folder)).model_class()  # type: ignore[arg-type]


def _chat(folder: str) -> None:
    records = read_records(str(_written(Path(folder, "a.jsonl"), json.dumps({"messages": MESSAGES}))), "train")
    get_format("messages", records, "causal_lm").text(records[0], load_tokenizer(folder))


def on_base(**fields: Any) -> Attempt:
    """Puts an adapter with other values in `fields` on a base model."""

    def read(folder: Path) -> None:
        files = read_adapter(folder)
        attach(_base(), files.peft_config(), files.tensors)

    return adapter(read, **fields)


@cache
def _base() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1))


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _good_adapter(folder: Path) -> None:
    fields = {
        "peft_type": "LINCHAIN",
        "r": 2,
        "chain_length": 3,
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
    }
    fields |= {"base_model_name_or_path": "starter", "task_type": "CAUSAL_LM"}
    _written(folder / CONFIG_FILE, json.dumps(fields))
    save_file({A: torch.ones(2, 8), B: torch.ones(8, 2), CHAIN: torch.ones(2, 3, 2)}, folder / WEIGHTS_FILE)


CASES: dict[str, tuple[Attempt, str]] = {
    # configurations: the text
    "aliases that stand for 10**10 values": (config(RUN + BOMB), "it holds itself or more than 100,000 values"),
    "an alias of itself": (config("a: &a [*a]"), "run.yaml:1: not valid YAML (it holds itself"),
    "nested too deeply": (config("[" * 3000), "nested too deeply"),
    "a tag that runs code": (config("a: !!python/object/apply:os.system [true]"), "could not determine a constructor"),
    "a list as a key": (config("? [a]\n: 1"), "run.yaml:1: not valid YAML (a key is no text)"),
    "a date that is none": (config("a: 2020-13-40"), "not valid YAML (month must be in 1..12)"),
    "a number of 5000 digits": (config("a: " + "9" * 5000), "1: not valid YAML (an integer of more than 1,000 digits)"),
    "a hexadecimal number of 6000 digits": (config("a: " + HEX), "an integer of more than 1,000 digits"),
    "a hexadecimal key": (config(f"? {HEX}\n: 1"), "an integer of more than 1,000 digits"),
    "a sexagesimal number without end": (config("a: " + SEXAGESIMAL), "an integer of more than 1,000 digits"),
    "aliases of a long text": (config(RUN + TEXTS), "it holds itself or more than 100,000 values"),
    "no text": (config("a: \0"), "not valid YAML (unacceptable character #x0000"),
    "an empty file": (config(""), "expected a mapping of keys to values, found NoneType"),
    "keys that are numbers": (config(RUN + "1: 2\n"), "1: Keys should be strings, found 1"),
    # configurations: values
    "an override without a value": (config(RUN, "training"), "override 'training': expected key=value"),
    "an override that is no path": (config(RUN, "a b=1"), "override 'a b=1': expected key=value"),
    "an override of 5000 digits": (config(RUN, "training.seed=" + "9" * 5000), "an integer of more than 1,000 digits"),
    "an override of 6000 hexadecimal digits": (config(RUN, f"method.r={HEX}"), "an integer of more than 1,000 digits"),
    "an override with a tag": (config(RUN, "output=!!python/name:os.system"), "could not determine a constructor"),
    "a rank beyond any float": (config(RUN, f"method.lora_alpha={10**400}"), "lora_alpha must be a positive number"),
    "not a number": (config(RUN, "training.learning_rate=.nan"), "training.learning_rate: must be"),
    "a seed of 2**32": (config(RUN, f"training.seed={2**32}"), "training.seed: must be less than 4294967296"),
    "the home of nobody": (config(RUN, "output=~nobody-here/x"), "output: path '~nobody-here/x' cannot be followed"),
    "a path with a null": (config(RUN, 'output="a\\0b"'), "output: path 'a\\x00b' can be no file's"),
    "a path that is too long": (config(RUN, f"output={'x' * 300}"), "a name of over 255 bytes"),
    "a model's path that is too long": (lambda _: model_path("x" * 300), "a name of over 255 bytes"),
    "a pattern that is none": (config(RUN, "method.target_modules='('"), "target_modules must be a list of module names"),
    "a mapping where a text belongs": (config(RUN, "output={a: b}"), "output: must be a valid string"),
    # plans
    "seeds without end": (plan(f"seeds={10**30}"), "at most 10,000 seeds"),
    "a seed that is a text": (plan("seeds=all"), "seeds: must be a list such as [1, 2, 3]"),
    "a label with half a character": (plan('methods=[{name: lora, label: "\\ud800"}]'), "cannot be the name of a folder"),
    "a label that leaves the folder": (plan("methods=[{name: lora, label: ../../x}]"), "cannot be the name of a folder"),
    "a label that colours the terminal": (plan('methods=[{name: lora, label: "\\e[31m"}]'), "cannot be the name of a folder"),
    "a plan's path of nobody": (plan("output=~nobody-of-this-name/x"), "cannot be followed"),
    "rates beyond any float": (plan(f"learning_rates=[{10**400}]"), "learning_rates"),
    # data
    "JSON nested too deeply": (data("a.jsonl", "[" * 100_000), "a.jsonl:1: JSON nested too deeply"),
    "a JSON number of 5000 digits": (data("a.jsonl", '{"text": ' + "9" * 5000 + "}"), "a.jsonl:1: not valid JSON (Exceeds"),
    "half a character": (data("a.jsonl", '{"text": "\\ud800"}'), "a.jsonl:1: holds half a character"),
    "half a character in a list": (data("a.json", '[{"text": "a"},\n{"text": ["\\uDFFF"]}]'), "a.json: holds half a character"),
    "half a character as bytes": (data("a.jsonl", b'{"text": "\xed\xa0\x80"}'), "a.jsonl:1: not valid UTF-8"),
    "UTF-16": (data("a.json", '[{"text": "a"}]'.encode("utf-16")), "a.json: not valid UTF-8"),
    "a list of lists": (data("a.json", "[[1]]"), "a.json, record 1: expected an object with named fields, found list"),
    "CSV with a loose quote": (data("a.csv", 'text\n"a" b\n'), "a.csv:2: not valid CSV"),
    "CSV with one field too many": (data("a.csv", "text\na,b\n"), "a.csv:2: 2 fields where the header has 1"),
    "Parquet cut short": (data("a.parquet", b"PAR1\x15\x04PAR1"), "a.parquet: not a valid Parquet file"),
    "a text that is a number": (rows({"text": 5}), "rows.jsonl:1: column 'text' must be text, found int 5"),
    "an answer that is a list": (
        rows({"instruction": "a", "output": "b", "answer": []}), "column 'answer' must be text, found list []"
    ),
    "messages that are texts": (rows({"messages": ["a"]}), "column 'messages' must be a list of objects"),
    "a role that is a list": (rows({"messages": [{"role": [], "content": "a"}]}), "column 'messages' must be a list"),
    "a label of 10**12": (
        rows(PAIR, {**PAIR, "label": 10**12}, task="sequence_classification"), "rows.jsonl:2: label 1000000000000 is too large"
    ),
    "a label that is not a number": (
        rows({**PAIR, "label": float("nan")}, task="sequence_classification"), "label nan is no number that can be learned"
    ),
    "a label beyond any float": (
        rows({**PAIR, "label": 10**400}, task="sequence_classification"), "is no number that can be learned"
    ),
    "a label that is true": (rows({**PAIR, "label": True}, task="sequence_classification"), "found True"),
    # adapters: the configuration
    "a configuration that is a list": (file(CONFIG_FILE, "[]"), "it holds no object"),
    "a configuration nested too deeply": (file(CONFIG_FILE, "[" * 100_000), "it is nested too deeply"),
    "a configuration of 20 MB": (file(CONFIG_FILE, " " * 20_000_000), "it is larger than 16,777,216 bytes"),
    "a type that is a list": (adapter(peft_type=["LORA"]), "is an adapter of type ['LORA']"),
    "a type that reads other files": (adapter(peft_type="XLORA"), "is an adapter of type 'XLORA'. What is read: LINCHAIN"),
    "a rank of 10**9": (adapter(r=10**9), "has shape (2, 8), but the rank is 1000000000"),
    "a rank that is a text": (adapter(r="2"), "r must be a positive integer, got '2'"),
    "an alpha of null": (adapter(lora_alpha=None), "lora_alpha must be a positive number, got None"),
    "a rank of 10**5 elsewhere": (
        on_base(rank_pattern={"0.self_attn.q_proj": 2}, r=10**5, layers_to_transform=[0, 1]), "which the base model needs"
    ),
    "a chain of 10**6 matrices": (adapter(chain_length=10**6), "does not fit chain_length 1000000"),
    "a chain of -1 matrices": (adapter(chain_length=-1), "chain_length must be an integer of at least 0, got -1"),
    "widths that are no list": (adapter(chain_widths=8), "chain_widths must be a list of positive integers, got 8"),
    "widths of other tensors": (adapter(chain_widths=[2, 10**9, 2], chain_length=2), "does not fit chain_length 2"),
    "a rank pattern of texts": (adapter(rank_pattern={"q_proj": "8"}), "rank_pattern must be a mapping"),
    "a pattern that is no pattern": (adapter(rank_pattern={"(": 2}), "rank_pattern must be a mapping"),
    "modules to save of letters": (adapter(modules_to_save="lm_head"), "modules_to_save must be a list of module names"),
    "modules to save without a name": (adapter(modules_to_save=[""]), "modules_to_save must be a list of module names"),
    "modules to save that are not there": (on_base(modules_to_save=["mlp"]), "tensors missing), which the base model needs"),
    "a module to import": (adapter(megatron_config={"a": 1}, megatron_core="os"), "PEFT would import the module"),
    "layers without end": (adapter(layer_replication=[[0, 10**9]]), "layer_replication is not accepted"),
    "tokens beyond the vocabulary": (on_base(trainable_token_indices=[10**9]), "tensors missing), which the base model needs"),
    "targets that match without end": (on_base(target_modules=NEVER, layers_to_transform=None), "its patterns for modules"),
    "ranks that match without end": (on_base(rank_pattern={NEVER: 2}), "its patterns for modules"),
    "exclusions that match without end": (on_base(exclude_modules=NEVER), "its patterns for modules"),
    "layers that match without end": (on_base(layers_pattern=NEVER), "its patterns for modules"),
    "a pattern too deep to be read": (adapter(target_modules="(" * 5000), "target_modules must be a list of module names"),
    "targets of another model": (on_base(target_modules=["no_such"]), "was made for another model"),
    # adapters: the base model that they name
    "a base up the folders": (adapter(adapter_base, base_model_name_or_path="../secret"), "name the base model with --model"),
    "a base up a path": (adapter(adapter_base, base_model_name_or_path="/a/../secret"), "name the base model with --model"),
    "a base in a home": (adapter(adapter_base, base_model_name_or_path="~root/model"), "name the base model with --model"),
    "a base that is a list": (adapter(base_model_name_or_path=["a"]), "must be the name of a model, got ['a']"),
    "a base that clears the screen": (adapter(base_model_name_or_path="\x1b[2J"), "must be the name of a model"),
    # adapters: the tensors
    "a B that is missing": (tensors(B=None), "lora_A.weight is there without"),
    "a chain that is missing": (tensors(CHAIN=None), "promises a chain of 3 matrices, but no tensor holds one"),
    "a chain in a LoRA": (tensors({"peft_type": "LORA"}), "lora_A.chain is of a chain, but the type is LORA"),
    "a chain of another dtype": (tensors(CHAIN=torch.ones(2, 3, 2).half()), "other factors of its module have another"),
    "a chain without an A": (tensors({"r": 2}, A=None), "does not fit chain_length 3"),
    "a rank that changes": (tensors(B=torch.ones(8, 3)), "lora_B.weight has shape (8, 3); expected (out, 2)"),
    "an A that is a vector": (tensors(A=torch.ones(2)), "has shape (2,); expected (r, in)"),
    "an A without inputs": (tensors(A=torch.ones(2, 0)), "is empty, its shape is (2, 0)"),
    "integers": (tensors(A=torch.ones(2, 8, dtype=torch.int64)), "has dtype I64; expected one of F64, F32, BF16, F16"),
    "NaN": (tensors(B=torch.full((8, 2), torch.nan)), "lora_B.weight holds values that are not finite"),
    "a name of two lines": (tensors(**{"x\nverified": torch.tensor([torch.inf])}), "x\\nverified holds values that are not"),
    "infinity in a saved module": (tensors(x=torch.tensor([torch.inf])), "x holds values that are not finite"),
    "blocks of another size": (
        tensors({"peft_type": "BONE", "form": "col", "r": 3}, **{f"{MODULE}.bone_block": torch.ones(4, 2, 2)}),
        "holds no blocks of r = 3",
    ),
    # adapters: the files
    "weights that are text": (file(WEIGHTS_FILE, "not safetensors"), "is corrupt or cut short"),
    "weights that are empty": (file(WEIGHTS_FILE, ""), "is corrupt or cut short"),
    "a header of terabytes": (file(WEIGHTS_FILE, (2**42).to_bytes(8, "little") + b"{}"), "is corrupt or cut short"),
    "a tensor of terabytes": (
        header(x={"dtype": "F32", "shape": [2**40], "data_offsets": [64, 2**42 + 64]}), "is corrupt or cut short"
    ),
    "tensors that overlap": (header(x={"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}), "is corrupt or cut short"),
    "a shape that is not its offsets'": (
        header(x={"dtype": "F32", "shape": [9], "data_offsets": [64, 64]}), "is corrupt or cut short"
    ),
    "a dtype of no library": (header(x={"dtype": "F1", "shape": [0], "data_offsets": [64, 64]}), "is corrupt or cut short"),
    "classes that are a mapping": (file(LABELS_FILE, '{"a": 1}', adapter_labels), "a list of 2 to 65,536 different texts"),
    "classes that are the same": (file(LABELS_FILE, '["a", "a"]', adapter_labels), "different texts"),
    "classes without end": (file(LABELS_FILE, json.dumps([str(i) for i in range(70_000)]), adapter_labels), "different texts"),
    # folders
    "a run in the home of nobody": (lambda _: RunFolder("~nobody-here/run"), "path '~nobody-here/run' cannot be followed"),
    "a link to the weights of others": (link(WEIGHTS_FILE, "/etc/hostname"), "is a link out of the folder"),
    "a link to a tokenizer elsewhere": (link("tokenizer.json", "../../tokenizer.json"), "is a link out of the folder"),
    "links in a circle": (link("a", "a"), "cannot be followed"),
    "a link among the templates": (link("additional_chat_templates/a.jinja", "/etc/hostname"), "a.jinja is a link out of"),
    "a link beside a tokenizer": (link("x", "/etc/hostname"), "x is a link out of the folder"),
    "a pipe in the place of a file": (pipe(LABELS_FILE, read_adapter), "labels.json is no file"),
    "a pipe in the place of classes": (pipe(LABELS_FILE, adapter_labels), "labels.json cannot be read: it is no file"),
    # models
    "a model's configuration that is a list": (model("config.json", "[]"), "config.json holds no object, but []"),
    "a model's configuration nested too deeply": (model("config.json", "[" * 100_000), "maximum recursion depth"),
    "a width that is a text": (model("config.json", {"hidden_size": "abc"}), "'hidden_size': TypeError: Field 'hidden_size'"),
    "no heads": (model("config.json", {"num_attention_heads": 0}), "cannot be loaded: ZeroDivisionError"),
    "classes without end in a model": (model("config.json", {"num_labels": 10**9}), "num_labels 1000000000 is too large"),
    "too many classes beside a tokenizer": (model("config.json", {"num_labels": 10**9}, load_tokenizer), "num_labels 1000"),
    "layers without end in a model": (model("config.json", {"num_hidden_layers": 10**7}), "num_hidden_layers 10000000 is too"),
    "layers without end in a part of a model": (model("config.json", {"text_config": {"n_layer": 10**7}}), "n_layer 1000"),
    "an architecture that is a number": (model("config.json", {"architectures": 5}), "architectures must be a list of names"),
    "an architecture that is null": (model("config.json", {"architectures": [None]}), "architectures must be a list of names"),
    "an architecture of no model": (model("config.json", {"architectures": ["AutoTokenizer"]}, _class), "is a AutoTokenizer"),
    "a quantisation that is a list": (model("config.json", {"quantization_config": [1]}), "must be an object, got [1]"),
    "a dtype of no library in a model": (model("config.json", {"dtype": "nope"}), "cannot be loaded: AttributeError"),
    "generation settings that are a list": (model("generation_config.json", "[]", _weights), "cannot be loaded: TypeError"),
    "a tokenizer that is empty": (model("tokenizer.json", "{}", load_tokenizer), "cannot be loaded: KeyError: 'added_tokens'"),
    "a tokenizer of no kind": (model("tokenizer.json", {"model": {"type": "X"}}, load_tokenizer), "loaded: Exception"),
    "a tokenizer's settings that are a list": (model("tokenizer_config.json", "[]", load_tokenizer), "AttributeError"),
    "an end of text that is a number": (model("tokenizer_config.json", {"eos_token": 5}, load_tokenizer), "TypeError: Special"),
    "a template without end": (
        model("chat_template.jinja", 3 * "{% for i in range(99999) %}" + 3 * "{% endfor %}", _chat), "it computes for more than"
    ),
    "a template that fails without a word": (
        model("chat_template.jinja", "{{ 'a' * 10**18 }}", _chat), "the chat template refuses these messages: MemoryError"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attempt", "expected"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_by_name(attempt: Attempt, expected: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("linchain.time_limit.LONGEST", 0.2)
    with pytest.raises(LinchainError) as refused:
        attempt(tmp_path)
    assert expected in str(refused.value)


def test_the_good_inputs_of_the_table_are_accepted(tmp_path: Path) -> None:
    config()(tmp_path)
    plan()(tmp_path)
    rows({"text": "a"})(tmp_path)
    on_base()(tmp_path)
    link("README.md", CONFIG_FILE)(tmp_path)
    adapter(base_model_name_or_path="../elsewhere")(tmp_path)  # refused where it is used: not with --model


def test_an_adapter_in_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    _good_adapter(blobs)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        os.symlink(blobs / name, snapshot / name)
    assert read_adapter(snapshot).kind == "linchain"
