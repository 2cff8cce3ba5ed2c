"""What a task declares: where its data lie, how an answer is read out of a text, by which metric it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from linchain.tasks.answers import Kind

Row = dict[str, Any]
Metric = Literal["exact_match", "accuracy", "matthews", "pearson", "loss"]
# How an answer in text is found: generated and read, or chosen among those that the prompt lists.
Scorer = Literal["generate", "loglikelihood"]


@dataclass(frozen=True)
class Split:
    """Where one split of a task lies.

    Attributes:
        records: how many records the original has.
        jsonl: path in the JSONL layout, one record of ours a line.
        jsonl_records: how many records there are in that file, where it is a part of the original.
        adapters: path in a checkout of LLM-Adapters, whose JSON the papers trained and tested on.
        source: what is read where no folder is named: a Hub name NAME[:CONFIG]:SPLIT, or `starter:<kind>`.
    """

    records: int
    jsonl: str | None = None
    jsonl_records: int | None = None
    adapters: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Task:
    """A data set with the way to score it.

    Attributes:
        name: as users write it, `task:<name>`.
        title: as papers write it.
        family: the file that declares it.
        metric: exact_match (of the answer read out of a generated text), accuracy, matthews, pearson or loss.
        splits: by name: train, validation, test. `test` is the split that papers report on; where that is a benchmark's
            public validation split there is no other, so that nothing is selected by what is tested on.
        licence: of the data.
        kind: what the model is loaded as.
        answer: what the gold answers are. Of the rules of `linchain.tasks.answers` it chooses that for expressions alone; the
            others are told by each gold answer, since Math10K holds numbers and letters.
        choices: the answers that there can be, for the page; a record may have fewer.
        max_new_tokens: of a generated answer.
        from_hub: makes a row of the Hub's data one of ours; None for a row that is no record.
        from_folder: makes a row of a folder's, in our columns already, one that can be learned and scored.
        contamination: of the test split, by the name of the training task that holds some of it, in words.
        note: what else a reader of a figure has to know.
    """

    name: str
    title: str
    family: str
    metric: Metric
    splits: Mapping[str, Split]
    licence: str
    kind: Literal["causal_lm", "sequence_classification"] = "causal_lm"
    answer: Kind | None = None
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 256
    from_hub: Callable[[Row], Row | None] = dict
    from_folder: Callable[[Row], Row] = dict
    contamination: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
