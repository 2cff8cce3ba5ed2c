"""Records made ready for evaluation, before any model is loaded, so that data that cannot be evaluated are refused early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from linchain import tasks
from linchain.errors import LinchainError
from linchain.evaluation.loglikelihood import Question, encode_questions
from linchain.evaluation.scores import BY_TASK
from linchain.tasks import expressions
from linchain.tasks.answers import Extraction, Kind, matches
from linchain.tasks.encoding import Example, encode_sentences, encode_texts, prompt_tokens
from linchain.tasks.formats import Format, get_format
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels
from linchain.tasks.task import Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of an answer that no task says the length of.
MAX_NEW_TOKENS = 256
# Records whose own text is scored, to see whether it can be right at all.
TRIED = 100


@dataclass(frozen=True)
class Scoring:
    """How answers in text are scored: by `scorer` generate or loglikelihood, read out of a generated text by `extraction`."""

    scorer: Scorer = "generate"
    extraction: Extraction = "standard"


@dataclass(frozen=True)
class Part:
    """Records of one task, or of none, ready to be scored by `metric`.

    `prompts` and `golds`, with the kind of answer, are there for exact_match, `questions` for scoring by log-likelihood,
    `examples` for every other metric.
    """

    metric: str
    records: list[Record]
    task: str | None = None
    examples: list[Example] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    golds: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    labels: Labels | None = None
    kind: Kind | None = None
    extraction: Extraction = "standard"
    max_new_tokens: int = MAX_NEW_TOKENS


@dataclass(frozen=True)
class EvaluationData:
    """What is evaluated together: one part a task, each scored by its own metric."""

    parts: tuple[Part, ...]

    @property
    def metric(self) -> str:
        """The metric of all parts, `"auto"` where they have different ones (see `linchain.evaluation.scores.score`)."""
        metrics = {part.metric for part in self.parts}
        return metrics.pop() if len(metrics) == 1 else BY_TASK

    @property
    def labels(self) -> Labels | None:
        """The classes of a classifier's data."""
        return self.parts[0].labels

    @property
    def records(self) -> list[Record]:
        """All records, in the order of the rows of predictions."""
        return [record for part in self.parts for record in part.records]

    @property
    def missed(self) -> tuple[int, int]:
        """How many records their own `output` (or `completion`) would score wrong, and how many (up to `TRIED`) were tried."""
        found = (
            matches(text, gold, part.kind, part.extraction)
            for part in self.parts
            for record, gold in zip(part.records, part.golds, strict=False)
            if isinstance(text := record.fields.get("output", record.fields.get("completion")), str)
        )
        tried = list(islice(found, TRIED))
        return tried.count(False), len(tried)

    @property
    def examples(self) -> list[Example]:
        """The examples of all parts, where they are evaluated by their loss."""
        return [example for part in self.parts for example in part.examples]


def prepare(
    records: list[Record],
    format: Format | str,
    tokenizer: PreTrainedTokenizerBase,
    metric: str,
    max_length: int,
    train_on_prompt: bool = False,
    labels: Labels | None = None,
    scoring: Scoring = Scoring(),
) -> EvaluationData:
    """Tokenises records for `metric`, those of each task by themselves and for `"auto"` by the task's own metric.

    `format` is that of records of no task, or the name to find it by. Raises LinchainError, naming the records, for those
    that cannot be evaluated.
    """
    groups: dict[str | None, list[Record]] = {}
    for record in records:
        groups.setdefault(record.task, []).append(record)
    parts = []
    for name, rows in groups.items():
        task = tasks.get(name) if name is not None else None
        own = _format(format, rows, task, labels)
        chosen = choose_metric(metric, own, rows, labels, task, scoring.scorer)
        parts.append(
            Part(
                chosen,
                rows,
                name,
                labels=labels,
                kind=task.answer if task else None,
                extraction=scoring.extraction,
                max_new_tokens=task.max_new_tokens if task else MAX_NEW_TOKENS,
                **_encoded(rows, chosen, own, tokenizer, max_length, train_on_prompt, labels),
            )
        )
    data = EvaluationData(tuple(parts))
    if data.metric == BY_TASK and None in groups:
        others = next(part.metric for part in parts if part.task is None)
        raise LinchainError(f"data of no task, scored by {others}, and tasks with other metrics: evaluate them apart")
    if scoring.extraction == "math_verify" and any(part.prompts for part in parts):
        expressions.check_math_verify()
    return data


def _encoded(
    rows: list[Record],
    metric: str,
    format: Format,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    train_on_prompt: bool,
    labels: Labels | None,
) -> dict[str, Any]:
    """What of a Part the metric is taken from."""
    if metric == "exact_match":
        asked = [format.question(record, tokenizer) for record in rows]
        prompts = prompt_tokens(tokenizer, [prompt for prompt, _ in asked])
        return {"prompts": prompts, "golds": [gold for _, gold in asked]}
    if labels is not None:
        return {"examples": encode_sentences(rows, labels, tokenizer, max_length)}
    if metric == "accuracy":
        return {"questions": encode_questions(rows, format, tokenizer)}
    return {"examples": encode_texts(rows, format, tokenizer, max_length, train_on_prompt)}


def _format(format: Format | str, rows: list[Record], task: tasks.Task | None, labels: Labels | None) -> Format:
    kind = "causal_lm" if labels is None else "sequence_classification"
    if task is not None:
        return get_format("auto", rows, kind)
    if isinstance(format, str):
        return get_format(format, rows, kind)
    for record in rows:
        format.check(record)
    return format


def choose_metric(
    metric: str,
    format: Format,
    records: Sequence[Record],
    labels: Labels | None,
    task: tasks.Task | None = None,
    scorer: Scorer = "generate",
) -> str:
    """`metric`, or for `"auto"` the task's, or the one that fits the data; LinchainError where it does not fit them."""
    accepted: tuple[str, ...]
    if labels is not None:
        fitting = "pearson" if labels.names is None else "accuracy"
        accepted = ("loss", "pearson") if labels.names is None else ("loss", "accuracy", "matthews")
    elif scorer == "loglikelihood":
        fitting, accepted = "accuracy", ("loss", "accuracy")
    else:
        asked = format.name in ("instruction", "prompt_completion") and records[0].fields.get("answer")
        fitting = "exact_match" if asked else "loss"
        accepted = ("loss",) if format.name == "text" else ("loss", "exact_match")
    if metric == "auto":
        metric = task.metric if task is not None and scorer == "generate" else fitting
    if metric not in accepted:
        raise LinchainError(f"metric {metric!r} does not fit this data; accepted: {', '.join(accepted)}")
    return metric


def check_context(data: EvaluationData, context: int | None, max_new_tokens: int | None = None) -> None:
    """Refuse prompts that leave no room within the model's context of `context` tokens for what follows them.

    That is `max_new_tokens`, each task's own where it is None, or the answers to choose from.
    """
    if context is None:
        return
    for part in data.parts:
        room = max_new_tokens or part.max_new_tokens
        for record, prompt in zip(part.records, part.prompts, strict=False):
            if len(prompt) + room > context:
                raise LinchainError(
                    f"{record.where}: a prompt of {len(prompt)} tokens and evaluation.max_new_tokens {room} "
                    f"exceed the model's context of {context}"
                )
        for record, question in zip(part.records, part.questions, strict=False):
            longest = max(len(example.input_ids) for example in question.examples)
            if longest > context:
                raise LinchainError(
                    f"{record.where}: a prompt and answer of {longest} tokens exceed the model's context of {context}"
                )
