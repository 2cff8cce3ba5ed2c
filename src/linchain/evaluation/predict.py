"""Per-example results of a model: loss by token, generated answers, chosen answers, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from linchain import processes
from linchain.errors import LinchainError
from linchain.evaluation.data import EvaluationData, Part
from linchain.evaluation.loglikelihood import Question
from linchain.tasks import answers
from linchain.tasks.encoding import IGNORE, Example, collate, pad_token_id
from linchain.tasks.sentence_pair import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Progress = Callable[[int], None]


def predict(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: EvaluationData,
    batch_size: int,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """One row a record, in the order of `data.records`; `linchain.evaluation.scores.score` takes scores from them.

    Processes that are joined share the batches and get all rows, the same as one process would find; each must call it.
    Batches hold examples of like length; `progress` is called with the number of records of each finished batch. An answer
    is at most `max_new_tokens` long, by default as long as its task says.
    """
    rows: list[Row] = []
    with _inference(model):
        for part in data.parts:
            found = _predict_part(model, tokenizer, part, batch_size, max_new_tokens, num_beams, progress)
            named = {} if part.task is None else {"task": part.task}
            rows += [
                {"id": record.fields.get("id", record.where), **named, **row}
                for record, row in zip(part.records, found, strict=True)
            ]
    return rows


def check_finite(model: nn.Module, data: EvaluationData, what: str) -> None:
    """Raise LinchainError, which calls the model `what`, where its logits for the first record are no numbers: it would be
    scored as if it answered."""
    part = data.parts[0]
    tokens = part.prompts or [example.input_ids for example in part.examples or part.questions[0].examples]
    with _inference(model):
        logits = model(input_ids=torch.tensor([tokens[0]], device=_device(model))).logits
    if not (logits < torch.inf).all():  # some models forbid tokens by -inf
        raise LinchainError(f"{what} computes no numbers: of its logits for the first record some are NaN or infinite")


def _predict_part(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    part: Part,
    batch_size: int,
    max_new_tokens: int | None,
    num_beams: int,
    progress: Progress | None,
) -> list[Row]:
    lengths = _lengths(part)
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])  # longest first: memory runs out at once
    if part.questions:  # each takes a row of the batch for every choice
        batch_size = max(1, batch_size // max(len(question.choices) for question in part.questions))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows: dict[int, Row] = {}
    for chosen, turn in processes.turns(batches):
        if part.prompts:
            found = _answer(model, tokenizer, part, chosen, max_new_tokens or part.max_new_tokens, num_beams)
        elif part.questions:
            found = _choose(model, tokenizer, [part.questions[index] for index in chosen])
        else:
            examples = [part.examples[index] for index in chosen]
            if part.labels is not None:
                found = _classify(model, tokenizer, part.labels, examples)
            else:
                found = _token_losses(model, tokenizer, examples)
        rows.update(zip(chosen, found, strict=True))
        if progress:
            progress(sum(map(len, turn)))
    for others in processes.exchange(rows):
        rows |= others
    return [rows[index] for index in range(len(order))]


def _lengths(part: Part) -> list[int]:
    if part.prompts:
        return [len(tokens) for tokens in part.prompts]
    if part.questions:
        return [max(len(example.input_ids) for example in question.examples) for question in part.questions]
    return [len(example.input_ids) for example in part.examples]


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
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> dict[str, torch.Tensor]:
    batch = collate(examples, pad_token_id(tokenizer))
    return {name: tensor.to(_device(model)) for name, tensor in batch.items()}


def _token_losses(model: nn.Module, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Row]:
    batch = _batch(model, tokenizer, examples)
    labels = batch.pop("labels")[:, 1:]
    logits = model(**batch, use_cache=False).logits[:, :-1].float()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    tokens = (labels != IGNORE).sum(1)
    means = losses.sum(1) / tokens
    return [{"loss": loss, "tokens": count} for loss, count in zip(means.tolist(), tokens.tolist(), strict=True)]


def _choose(model: nn.Module, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[Row]:
    losses = iter(_token_losses(model, tokenizer, [example for one in questions for example in one.examples]))
    return [
        {"prompt": tokenizer.decode(question.prompt), **question.answered([next(losses) for _ in question.choices])}
        for question in questions
    ]


def _classify(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, classes: Labels, examples: Sequence[Example]
) -> list[Row]:
    batch = _batch(model, tokenizer, examples)
    labels = batch.pop("labels")
    logits = model(**batch).logits.float()
    prompts = [tokenizer.decode(example.input_ids) for example in examples]
    if classes.names is None:
        values = logits[:, 0]
        losses = (values - labels).square()
        return [
            {"prompt": prompt, "label": label, "prediction": value, "loss": loss}
            for prompt, label, value, loss in zip(
                prompts, labels.tolist(), values.tolist(), losses.tolist(), strict=True
            )
        ]
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    names = classes.names
    return [
        {"prompt": prompt, "label": names[label], "prediction": names[guess], "correct": label == guess, "loss": loss}
        for prompt, label, guess, loss in zip(
            prompts, labels.tolist(), logits.argmax(1).tolist(), losses.tolist(), strict=True
        )
    ]


def _answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    part: Part,
    chosen: list[int],
    max_new_tokens: int,
    num_beams: int,
) -> list[Row]:
    prompts = [part.prompts[index] for index in chosen]
    texts = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, num_beams=num_beams)
    rows = []
    for index, text in zip(chosen, texts, strict=True):
        gold = part.golds[index]
        rows.append(
            {
                "prompt": tokenizer.decode(part.prompts[index]),
                "generated": text,
                "extracted": answers.extract(text, gold, part.kind, part.extraction),
                "answer": gold,
                "correct": answers.matches(text, gold, part.kind, part.extraction),
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
        written = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            synced_gpus=processes.count() > 1,  # with sharded weights, one that is done goes on for the others
        )
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
