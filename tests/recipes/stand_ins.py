"""What recipes name and tests do not have: tiny models of the same architectures, and some records of every task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from linchain import tasks
from linchain.tasks.task import Row, Task

RECORDS = 8
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 1024, "initializer_range": 0.3}
ENCODER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def _llama(vocabulary: int, **sizes: Any) -> Any:
    config = transformers.LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, **{**LLAMA, **sizes})
    return transformers.LlamaForCausalLM(config)


def _llama2(vocabulary: int) -> Any:
    """All keys and values; widths that blocks of 64 divide, and twice the rank 36 fits in."""
    return _llama(vocabulary, hidden_size=128, intermediate_size=256)


def _llama3(vocabulary: int) -> Any:
    """Keys and values a quarter as wide as queries."""
    return _llama(vocabulary, hidden_size=64, intermediate_size=112, num_key_value_heads=1)


def _stories(vocabulary: int) -> Any:
    """The widths of stories260k."""
    return _llama(vocabulary, hidden_size=64, intermediate_size=172, num_attention_heads=8, num_key_value_heads=4)


def _roberta(vocabulary: int) -> Any:
    config = transformers.RobertaConfig(
        vocab_size=vocabulary, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, **ENCODER
    )
    return transformers.RobertaForSequenceClassification(config)


def _bert(vocabulary: int) -> Any:
    config = transformers.BertConfig(vocab_size=vocabulary, max_position_embeddings=128, pad_token_id=1, **ENCODER)
    return transformers.BertModel(config)


def _rwkv6(vocabulary: int) -> Any:
    if not torch.cuda.is_available():
        pytest.skip("flash-linear-attention needs a CUDA GPU")
    fla = pytest.importorskip("fla.models", reason="flash-linear-attention is not installed", exc_type=ImportError)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "intermediate_size": 256}
    config = fla.RWKV6Config(vocab_size=vocabulary, **sizes, proj_low_rank_dim=16, gate_low_rank_dim=16)
    return fla.RWKV6ForCausalLM(config)


# By the model that a recipe names; `starter` is at hand.
MODELS: dict[str, Callable[[int], Any]] = {
    "meta-llama/Meta-Llama-3-8B-Instruct": _llama3,
    "meta-llama/Llama-2-7b-hf": _llama2,
    "FacebookAI/roberta-base": _roberta,
    "sentence-transformers/all-MiniLM-L6-v2": _bert,
    "../shared/models/stories260k": _stories,
    "models/rwkv6-1.6b": _rwkv6,
}


def write_model(name: str, tokenizer: Path, folder: Path) -> None:
    """A random model in the place of `name`, with the tokenizer of the folder `tokenizer`."""
    tokens = transformers.AutoTokenizer.from_pretrained(tokenizer)
    tokens.save_pretrained(folder)
    torch.manual_seed(0)
    MODELS[name](len(tokens)).save_pretrained(folder)


def write_data(data: dict[str, Any], folder: Path) -> list[str]:
    """Some records for each source of the section `data` of a recipe that is not at hand; overrides that name them."""
    overrides = [f"data.folder={folder}"]
    for split in ("train", "validation", "test"):
        sources = [_write_source(source, split, folder) for source in data[split] or ()]
        overrides += [f"data.{split}={json.dumps(sources)}"] if sources else []
    return overrides


def _write_source(source: str, split: str, folder: Path) -> str:
    """What stands for `source`: itself, with its data in `folder` where it is a task that has a place there, or a file."""
    if source.startswith("task:"):
        task = tasks.get(source.removeprefix("task:"))
        place = task.splits[split].jsonl or task.splits[split].adapters
        path = folder / (place or f"{task.name}.jsonl")
        _write_rows([_row(task, number) for number in range(RECORDS)], path)
        return source if place else str(path)
    if source.startswith("../"):
        path = folder / Path(source).name
        _write_rows([{"instruction": f"Say {n}.", "input": "", "output": f"{n}"} for n in range(RECORDS)], path)
        return str(path)
    return source


def _write_rows(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def _row(task: Task, number: int) -> Row:
    """A record in the columns of our formats, the same for training and test."""
    if task.family == "glue":
        label = float(number % 6) if task.metric == "pearson" else number % 2
        return {"sentence1": f"Sentence {number}.", "sentence2": None, "label": label}
    if task.family == "language_modelling":
        return {"text": f"Once there were {number} birds, and one more made {number + 1}."}
    answers = {"choice": (task.choices or ("answer1",))[0], "letter": "A", "number": str(number), "expression": "x^2"}
    answer = answers[task.answer or "number"]
    return {"instruction": f"Question {number}?", "input": "", "output": f"The answer is {answer}", "answer": answer}
