"""Everything that can be refused before a model is loaded: data, tokenizer, lengths, examples."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from linchain.errors import LinchainError
from linchain.evaluation.data import EvaluationData, Scoring, check_context, prepare
from linchain.evaluation.models import context_length, load_model_config, load_tokenizer
from linchain.evaluation.quantization import check_installed
from linchain.tasks import protocols
from linchain.tasks.encoding import Example, encode_sentences, encode_texts
from linchain.tasks.formats import Format, get_format
from linchain.tasks.overlap import Overlap, find_overlaps
from linchain.tasks.records import Record, read_records, rename_columns
from linchain.tasks.sentence_pair import Labels, find_labels
from linchain.tasks.sources import read_scored
from linchain.training.config import DataConfig, RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MAX_LENGTH = 1024
VALIDATION_SPLIT_SEED = 42


@dataclass(frozen=True)
class PreparedData:
    """A run's data, tokenised. `records` holds each split's records as read, for hashes and counts.

    `validation` is prepared for its loss, `scored_validation` (with `evaluation.score_validation`) for the metric.
    """

    tokenizer: PreTrainedTokenizerBase
    format: Format
    labels: Labels | None
    max_length: int
    records: dict[str, list[Record]]
    train: list[Example]
    validation: EvaluationData | None
    scored_validation: EvaluationData | None
    test: EvaluationData | None

    @cached_property
    def overlaps(self) -> tuple[Overlap, ...]:
        """How many test questions of each task (of the test data, where they were not read by a task's name) are training
        questions too; empty without test data."""
        return self._overlaps_with("train")

    @cached_property
    def validation_overlaps(self) -> tuple[Overlap, ...]:
        """As `overlaps`, of the validation data: by what they hold, test data choose a checkpoint or a learning rate."""
        return self._overlaps_with("validation")

    def _overlaps_with(self, split: str) -> tuple[Overlap, ...]:
        tests: dict[str, list[Record]] = {}
        for record in self.records.get("test", ()):
            tests.setdefault(record.task or "test", []).append(record)
        return find_overlaps(self.records[split], tests) if tests and split in self.records else ()


def _check_precision(config: RunConfig) -> None:
    if config.training.precision != "float16" or torch.cuda.is_available():
        return
    key = "training.precision"
    of_protocol = config.protocol is not None and protocols.get(config.protocol).choices.get(key) == "float16"
    whose = f", the value of protocol {config.protocol}," if of_protocol else ""
    raise LinchainError(f"{key}: 'float16'{whose} needs a GPU; use 'bfloat16' or 'float32'")


def prepare_data(config: RunConfig) -> PreparedData:
    """Reads and tokenises the data of a run. Raises LinchainError for everything that the data make impossible."""
    if not config.data.train:
        raise LinchainError("data.train: required, but not given")
    _check_precision(config)
    if config.model.quantization:
        check_installed(config.model.quantization)
    records = _read_splits(config.data, config.evaluation.limit)
    format = get_format(config.data.format, records["train"], config.task)
    labels = find_labels(records["train"]) if config.task == "sequence_classification" else None
    model_config = load_model_config(config.model.name)
    tokenizer = load_tokenizer(config.model.name, config.model.chat_template)
    context = context_length(model_config)
    max_length = choose_max_length(config.data.max_length, context)
    train_on_prompt = config.data.train_on_prompt

    metric = config.evaluation.metric
    scoring = Scoring(config.evaluation.scorer, config.evaluation.extraction)

    def evaluated(split: str, metric: str) -> EvaluationData | None:
        if split not in records:
            return None
        data = prepare(records[split], format, tokenizer, metric, max_length, train_on_prompt, labels, scoring)
        check_context(data, context, config.evaluation.max_new_tokens)
        return data

    if labels is not None:
        train = encode_sentences(records["train"], labels, tokenizer, max_length)
    else:
        train = encode_texts(records["train"], format, tokenizer, max_length, train_on_prompt)
    return PreparedData(
        tokenizer=tokenizer,
        format=format,
        labels=labels,
        max_length=max_length,
        records=records,
        train=train,
        validation=evaluated("validation", "loss"),
        scored_validation=evaluated("validation", metric) if config.evaluation.score_validation else None,
        test=evaluated("test", metric),
    )


def choose_max_length(asked: int | None, context: int | None) -> int:
    """The asked number of tokens, or the model's context up to 1024; LinchainError where the model has less."""
    if asked is None:
        return min(DEFAULT_MAX_LENGTH, context or DEFAULT_MAX_LENGTH)
    if context is not None and asked > context:
        raise LinchainError(f"data.max_length: {asked} exceeds the model's context of {context} tokens")
    return asked


def _read_splits(data: DataConfig, evaluation_limit: int | None) -> dict[str, list[Record]]:
    read = {"train": read_records(data.train or (), "train", data.limit, data.folder)}
    for split, sources in (("validation", data.validation), ("test", data.test)):
        if sources:
            read[split] = read_scored(sources, split, evaluation_limit, data.folder)
    records = {split: rename_columns(rows, data.columns) for split, rows in read.items()}
    if data.validation_size is not None:
        rows = records["train"]
        if data.validation_size >= len(rows):
            raise LinchainError(
                f"data.validation_size: {data.validation_size} leaves none of the {len(rows)} training records"
            )
        held = set(random.Random(VALIDATION_SPLIT_SEED).sample(range(len(rows)), data.validation_size))
        records["validation"] = [row for index, row in enumerate(rows) if index in held]
        records["train"] = [row for index, row in enumerate(rows) if index not in held]
    return records
