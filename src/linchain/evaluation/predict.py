"""Per-example results of a model: loss by token, generated answers, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from linchain.errors import LinchainError
from linchain.tasks import answers
from linchain.tasks.encoding import (
    IGNORE,
    Example,
    collate,
    encode_sentences,
    encode_texts,
    pad_token_id,
    prompt_tokens,
)
from linchain.tasks.formats import Format
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Progress = Callable[[int], None]
CLASSIFICATION_METRICS = ("accuracy", "matthews", "pearson")


@dataclass(frozen=True)
class EvaluationData:
    """Records ready to be evaluated by `metric`; made before any model is loaded, so that bad data is refused early.

    `prompts` and `golds` are there for exact_match, `examples` for every other metric.
    """

    metric: str
    records: list[Record]
    examples: list[Example]
    prompts: list[list[int]]
    golds: list[str]
    labels: Labels | None = None


def choose_metric(metric: str, format: Format, records: Sequence[Record], labels: Labels | None) -> str:
    """`metric`, or for `"auto"` the one that fits the data; LinchainError where it does not fit them."""
    accepted: tuple[str, ...]
    if labels is None:
        fitting = "exact_match" if format.name == "instruction" and records[0].fields.get("answer") else "loss"
        accepted = ("loss",) if format.name == "text" else ("loss", "exact_match")
    else:
        fitting = "pearson" if labels.names is None else "accuracy"
        accepted = ("loss", "pearson") if labels.names is None else ("loss", "accuracy", "matthews")
    if metric == "auto":
        return fitting
    if metric not in accepted:
        raise LinchainError(f"metric {metric!r} does not fit this data; accepted: {', '.join(accepted)}")
    return metric


def prepare(
    records: list[Record],
    format: Format,
    tokenizer: PreTrainedTokenizerBase,
    metric: str,
    max_length: int,
    train_on_prompt: bool = False,
    labels: Labels | None = None,
) -> EvaluationData:
    """Tokenises records for `metric`; LinchainError names the records that cannot be evaluated."""
    metric = choose_metric(metric, format, records, labels)
    if metric == "exact_match":
        questions = [format.question(record, tokenizer) for record in records]
        prompts = prompt_tokens(tokenizer, [prompt for prompt, _ in questions])
        return EvaluationData(metric, records, [], prompts, [gold for _, gold in questions])
    if labels is not None:
        examples = encode_sentences(records, labels, tokenizer, max_length)
    else:
        examples = encode_texts(records, format, tokenizer, max_length, train_on_prompt)
    return EvaluationData(metric, records, examples, [], [], labels)


def check_context(data: EvaluationData, context: int | None, max_new_tokens: int) -> None:
    """Refuse prompts that leave no room for `max_new_tokens` within the model's context of `context` tokens."""
    if context is None:
        return
    for record, prompt in zip(data.records, data.prompts, strict=False):
        if len(prompt) + max_new_tokens > context:
            raise LinchainError(
                f"{record.where}: a prompt of {len(prompt)} tokens and evaluation.max_new_tokens {max_new_tokens} "
                f"exceed the model's context of {context}"
            )


def predict(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: EvaluationData,
    batch_size: int,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """One row a record, in their order; `linchain.evaluation.scores.score` takes scores from them.

    Batches hold examples of like length; `progress` is called with the number of examples of each finished batch.
    """
    lengths = [len(tokens) for tokens in data.prompts] or [len(example.input_ids) for example in data.examples]
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])  # longest first: memory runs out at once
    rows: list[Row] = [{} for _ in order]
    with _inference(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if data.metric == "exact_match":
                found = _answer(model, tokenizer, data, chosen, max_new_tokens, num_beams)
            elif data.labels is not None:
                found = _classify(model, tokenizer, data, chosen)
            else:
                found = _token_losses(model, tokenizer, data, chosen)
            for index, row in zip(chosen, found, strict=True):
                record = data.records[index]
                rows[index] = {"id": record.fields.get("id", record.where), **row}
            if progress:
                progress(len(chosen))
    return rows


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        # not inference_mode: an adapter may keep a tensor that the next training step needs
        with torch.no_grad(), _without_autocast(model):
            yield
    finally:
        model.train(was_training)


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """The model's own forward: scores must not depend on whether a trainer has prepared the model before.

    Accelerate puts a forward that enters autocast by itself into the model, and keeps the one it replaced.
    """
    own = vars(model).get("_original_forward")
    if own is None:
        yield
        return
    wrapped, model.forward = model.forward, own
    try:
        yield
    finally:
        model.forward = wrapped


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _batch(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: EvaluationData, chosen: list[int]
) -> dict[str, torch.Tensor]:
    batch = collate([data.examples[index] for index in chosen], pad_token_id(tokenizer))
    return {name: tensor.to(_device(model)) for name, tensor in batch.items()}


def _token_losses(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: EvaluationData, chosen: list[int]
) -> list[Row]:
    batch = _batch(model, tokenizer, data, chosen)
    labels = batch.pop("labels")[:, 1:]
    logits = model(**batch, use_cache=False).logits[:, :-1].float()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    tokens = (labels != IGNORE).sum(1)
    means = losses.sum(1) / tokens
    return [{"loss": loss, "tokens": count} for loss, count in zip(means.tolist(), tokens.tolist(), strict=True)]


def _classify(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: EvaluationData, chosen: list[int]
) -> list[Row]:
    assert data.labels is not None
    batch = _batch(model, tokenizer, data, chosen)
    labels = batch.pop("labels")
    logits = model(**batch).logits.float()
    if data.labels.names is None:
        values = logits[:, 0]
        losses = (values - labels).square()
        return [
            {"label": label, "prediction": value, "loss": loss}
            for label, value, loss in zip(labels.tolist(), values.tolist(), losses.tolist(), strict=True)
        ]
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    names = data.labels.names
    return [
        {"label": names[label], "prediction": names[guess], "correct": label == guess, "loss": loss}
        for label, guess, loss in zip(labels.tolist(), logits.argmax(1).tolist(), losses.tolist(), strict=True)
    ]


def _answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: EvaluationData,
    chosen: list[int],
    max_new_tokens: int,
    num_beams: int,
) -> list[Row]:
    texts = generate(
        model, tokenizer, [data.prompts[index] for index in chosen], max_new_tokens=max_new_tokens, num_beams=num_beams
    )
    rows = []
    for index, text in zip(chosen, texts, strict=True):
        gold = data.golds[index]
        rows.append(
            {
                "prompt": tokenizer.decode(data.prompts[index]),
                "generated": text,
                "extracted": answers.extract(text, gold),
                "answer": gold,
                "correct": answers.matches(text, gold),
            }
        )
    return rows


def generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], max_new_tokens: int, num_beams: int = 1
) -> list[str]:
    """The text that `model` writes after each prompt by plain greedy or beam search. One batch, padded on the left.

    What the model's own generation settings say beside the ends of a text (penalties, forced or forbidden tokens) is
    not followed: scores of different models, and of a model before and after, are then of the same search.
    """
    from transformers import GenerationConfig

    longest = max(len(prompt) for prompt in prompts)
    pad = pad_token_id(tokenizer)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted(_stop_tokens(model, tokenizer)) or None,
        use_cache=True,  # the trainer turns the model's own setting off
    )
    device = _device(model)
    with _own_generation_settings_off(model):
        written = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
    return tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)


@contextmanager
def _own_generation_settings_off(model: Any) -> Iterator[None]:
    """Generation takes what it is not told from here, also fields whose neutral value, None, cannot be told."""
    from transformers import GenerationConfig

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own


def _stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end-of-text token, and the model's own ends (of a turn, say)."""
    own = model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return {token for token in (tokenizer.eos_token_id, *ends) if token is not None}
