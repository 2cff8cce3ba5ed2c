"""Whether what was written computes what the adapter computed: logits before and after, in float32, on real text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linchain.errors import LinchainError
from linchain.evaluation.models import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The largest difference allowed, as a share of the largest logit (of 1, where that is smaller), by the dtype that the
# weights were written in. Logits are computed in float32: the 16-bit ones allow for rounded weights and no more.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "A train leaves at 9:40 and arrives 2 hours and 35 minutes later. When does it arrive?",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "def fold(a, factors):\n    for w in factors:\n        a = w @ a\n    return a",
    "Water boils at 100 °C at sea level, but at about 93 °C at an altitude of 2,000 metres.",
    "Once upon a time there was a little girl who lived with her mother in a small house near the sea.",
)
MAX_TEXTS = 16
MAX_TOKENS = 128


@dataclass(frozen=True)
class Batch:
    """Token ids of the texts compared, each of shape (1, tokens): one at a time, so that no padding is needed."""

    ids: list[Tensor]
    source: str

    def __str__(self) -> str:
        return f"{self.source}, {sum(ids.numel() for ids in self.ids)} tokens"


@dataclass(frozen=True)
class Comparison:
    """Logits before and after.

    Attributes:
        difference: The largest absolute difference.
        scale: The largest absolute logit before.
        effect: The largest absolute difference that the adapter itself makes to the base model's logits.
        tolerance: The largest difference allowed: the dtype's share of max(1, scale), but less than half of an effect that
            can be told from float32's own rounding, so that an adapter which was lost does not pass.
        dtype: The dtype that the weights were written in.
        batch: What they were computed on.
    """

    difference: float
    scale: float
    effect: float
    tolerance: float
    dtype: torch.dtype
    batch: str

    @property
    def passed(self) -> bool:
        """False, too, where a logit is not a number."""
        return self.difference <= self.tolerance

    @property
    def is_finite(self) -> bool:
        """Whether all logits, before and after, are numbers."""
        return math.isfinite(self.difference)

    @property
    def advice(self) -> str:
        """What to do where it may be rounding to 16 bits that lost too much of the adapter; empty elsewhere."""
        if self.passed or not self.is_finite or self.dtype not in (torch.bfloat16, torch.float16):
            return ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f". Rounding to {dtype} may have lost too much of the adapter: use --dtype float32, or leave it unmerged"

    @property
    def distance(self) -> str:
        """How far the logits are, without what is allowed."""
        return f"largest difference of the logits {self.difference:.2e} ({self._context})"

    @property
    def _context(self) -> str:
        return f"largest logit {self.scale:.3g}; the adapter moves them by up to {self.effect:.3g}; {self.batch}"

    def __str__(self) -> str:
        return f"largest difference of the logits {self.difference:.2e}, allowed {self.tolerance:.2e} ({self._context})"


@dataclass(frozen=True)
class Lost:
    """What leaving a quantised base changes.

    Attributes:
        difference: The largest absolute change of a logit.
        share: The norm of the changes of all logits as a share of the norm of the logits.
        quantization: What the base was quantised to.
    """

    difference: float
    share: float
    quantization: str

    def __str__(self) -> str:
        return (
            f"against the adapter on its quantised base ({self.quantization}) a logit changes by up to {self.difference:.2e}, "
            f"all of them by {100 * self.share:.2g} % of their norm"
        )


def make_batch(
    tokenizer: PreTrainedTokenizerBase | None, config: Any, text: Path | None = None, seed: int = 0
) -> Batch:
    """The texts to compare on: lines of the file `text`, else sentences of ours; random ids without a tokenizer."""
    longest = min(MAX_TOKENS, context_length(config) or MAX_TOKENS)
    config = config.get_text_config()
    if tokenizer is None:
        if text is not None:
            raise LinchainError(
                f"--text {text}: there is no tokenizer, neither beside the adapter nor with the base model"
            )
        random = torch.Generator().manual_seed(seed)
        shape = (1, min(32, longest))
        ids = [torch.randint(config.vocab_size, shape, generator=random) for _ in range(4)]
        return Batch(ids, f"{len(ids)} sequences of random token ids (no tokenizer)")
    lines = list(SENTENCES) if text is None else _lines(text)
    ids = [tokenizer(line, return_tensors="pt").input_ids[:, :longest] for line in lines]
    ids = [tokens for tokens in ids if tokens.numel()]
    if not ids:
        raise LinchainError(f"--text {text}: no line of it has a token")
    source = "sentences of ours" if text is None else f"lines of {text}"
    return Batch(ids, f"{len(ids)} {source}")


@torch.no_grad()
def logits(model: PreTrainedModel | torch.nn.Module, batch: Batch) -> list[Tensor]:
    """The model's first output (logits, start logits, or hidden state) for each text, in float32."""
    outputs = []
    for ids in batch.ids:
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(model.config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = ids
        outputs.append(model(**inputs, return_dict=True)[0].float())
    return outputs


def compare(
    before: list[Tensor], after: list[Tensor], base: list[Tensor], dtype: torch.dtype, batch: Batch
) -> Comparison:
    """Compare logits of the adapter (`before`), of what was written (`after`) and of the base model alone (`base`)."""
    scale = max(float(tensor.abs().max()) for tensor in before)
    effect = _largest_difference(before, base)
    rounding, exact = (TOLERANCES[kind] * max(1.0, scale) for kind in (dtype, torch.float32))
    return Comparison(
        difference=_largest_difference(before, after),
        scale=scale,
        effect=effect,
        tolerance=min(rounding, max(exact, effect / 2)) if effect > exact else rounding,
        dtype=dtype,
        batch=str(batch),
    )


def lost(as_trained: list[Tensor], merged: list[Tensor], quantization: str) -> Lost:
    """Compare logits of the adapter on its quantised base with those of what it was merged into."""
    before, after = (torch.cat([tensor.flatten() for tensor in one]).double() for one in (as_trained, merged))
    share = torch.linalg.norm(after - before) / torch.linalg.norm(before)
    return Lost(_largest_difference(as_trained, merged), float(share), quantization)


def _largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    return float(torch.stack([(a - b).abs().max() for a, b in zip(left, right, strict=True)]).max())


def _lines(text: Path) -> list[str]:
    try:
        lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LinchainError(f"--text {text} cannot be read: {error}") from error
    if not lines:
        raise LinchainError(f"--text {text} is empty")
    return lines[:MAX_TEXTS]
