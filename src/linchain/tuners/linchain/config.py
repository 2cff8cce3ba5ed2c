"""`LinChainConfig`: LoRA's configuration with a chain of small matrices between A and B."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from peft import LoraConfig
from peft.utils import PeftType

from linchain.errors import LinchainError, nearest

# The rank is LoRA's in PEFT, so that replacing LoraConfig by LinChainConfig changes nothing but the chain.
DEFAULT_RANK = 8
DEFAULT_LENGTH = 3
CHAIN_INITS = (True, "kaiming", "orthogonal", "identity", False)
LORA_INITS = (True, "gaussian", False)

# LoraConfig fields that assume ΔW = B·A, or replace its forward: each would be silently wrong with a chain in between.
_REFUSED = {
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "corda_config": "CorDA",
    "eva_config": "EVA",
    "kasa_config": "KaSA",
    "loftq_config": "LoftQ",
    "lora_ga_config": "LoRA-GA",
    "megatron_config": "Megatron",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
}


@dataclass
class LinChainConfig(LoraConfig):
    """Configuration of LinChain: y = x W0 + s · x A W_1 … W_n B (arXiv 2411.00039, eq. 5), with W0 frozen.

    All arguments of `peft.LoraConfig` are accepted; those that assume ΔW = BA (OLoRA, EVA, CorDA, LoftQ, LoRA-GA, Arrow,
    aLoRA, KaSA, VeLoRA, MonteCLoRA, BD-LoRA, QA-LoRA, Megatron, and PiSSA but for an identity chain) are refused by name.
    `chain_length=0` is LoRA, `chain_length=1` is MoSLoRA. The scale s is `lora_alpha / r`, or `lora_alpha / √r` with
    `use_rslora`.

    Args:
        r: Rank r_0, the width of A. 8, PEFT's default for LoRA, unless `chain_widths` says otherwise.
        chain_length: Number n of square r × r matrices. 3 unless `chain_widths` says otherwise.
        chain_widths: Widths r_0, r_1, …, r_n of a chain that is not square; LinChain-2-8 is [8, 16, 8].
        lora_alpha: Numerator of the scale; 8, PEFT's default for LoRA (the paper trains with r = 16, lora_alpha = 32).
        init_weights: How the chain's matrices start. True or "kaiming": Kaiming-uniform with a = √5, the paper's.
            "orthogonal" and "identity" keep the spectrum of A (rectangular ones: orthonormal rows or columns, a truncated
            identity). False: everything is random, B too, so that the adapter is no identity; for tests. A Kaiming chain
            shrinks its signal as 3^(-n/2) and diverges sooner than LoRA at learning rates tuned for LoRA with a large
            alpha and plain SGD.
        init_lora_weights: How A and B start: True (Kaiming-uniform A, zero B), "gaussian" (normal A with standard
            deviation 1/r, zero B) or False (both random). "pissa" and `"pissa_niter_<number>"`, PiSSA's start, only with
            init_weights="identity" and a square chain, where BA is what the whole adapter starts as.

    Raises:
        LinchainError: For widths, ranks or initialisations that do not fit, and for what LinChain does not support.
    """

    r: int = field(default=None, metadata={"help": "Rank r_0, the width of A (8, or the first of chain_widths)."})  # type: ignore[assignment]
    chain_length: int = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Number of square r × r matrices between A and B (3, or as many as chain_widths gives)."},
    )
    chain_widths: list[int] | None = field(
        default=None, metadata={"help": "Widths r_0 … r_n of a chain that is not square, e.g. [8, 16, 8]."}
    )
    init_weights: bool | Literal["kaiming", "orthogonal", "identity"] = field(
        default=True,
        metadata={
            "help": 'Start of the chain: True or "kaiming" (the paper), "orthogonal", "identity", False (random).'
        },
    )

    def __post_init__(self) -> None:
        self._settle_widths()
        if self.init_weights is False:
            self.init_lora_weights = False
        self._refuse_unsupported()
        super().__post_init__()
        self.peft_type = PeftType.LINCHAIN  # type: ignore[attr-defined]

    def widths(self, r: int) -> tuple[int, ...]:
        """Widths r_0 … r_n of the chain of a module whose rank is `r` (`rank_pattern` may change it for a module)."""
        return tuple(self.chain_widths) if self.chain_widths else (r,) * (self.chain_length + 1)

    def _settle_widths(self) -> None:
        """Fill in r and chain_length, or check them against chain_widths."""
        if self.chain_widths is not None:
            widths = self.chain_widths
            if isinstance(widths, str) or not hasattr(widths, "__len__") or len(widths) == 0:
                raise LinchainError(
                    f"chain_widths must be a list of positive integers such as [8, 16, 8], got {widths!r}"
                )
            self.chain_widths = list(widths)
            for width in self.chain_widths:
                _positive_integer("chain_widths", width)
            if self.r not in (None, self.chain_widths[0]):
                raise LinchainError(
                    f"r={self.r} does not fit chain_widths={self.chain_widths}: r is the first width. "
                    f"Leave r out, or set it to {self.chain_widths[0]}"
                )
            if self.chain_length not in (None, len(self.chain_widths) - 1):
                raise LinchainError(
                    f"chain_length={self.chain_length} does not fit chain_widths={self.chain_widths}, which gives "
                    f"{len(self.chain_widths) - 1} matrices. Leave chain_length out"
                )
            if self.rank_pattern:
                raise LinchainError(
                    "LinChain does not support rank_pattern together with chain_widths: use chain_length"
                )
            self.r, self.chain_length = self.chain_widths[0], len(self.chain_widths) - 1
        self.r = DEFAULT_RANK if self.r is None else self.r
        self.chain_length = DEFAULT_LENGTH if self.chain_length is None else self.chain_length
        _positive_integer("r", self.r)
        for pattern, rank in (self.rank_pattern or {}).items():
            _positive_integer(f"rank_pattern[{pattern!r}]", rank)
        if not _is_integer(self.chain_length) or self.chain_length < 0:
            raise LinchainError(f"chain_length must be an integer of at least 0, got {self.chain_length!r}")

    def _refuse_unsupported(self) -> None:
        for name, feature in _REFUSED.items():
            if getattr(self, name):
                raise LinchainError(f"LinChain does not support {feature} ({name}={getattr(self, name)!r})")
        if not any(self.init_weights is init or self.init_weights == init for init in CHAIN_INITS):
            raise _unknown_init("init_weights", self.init_weights, CHAIN_INITS)
        if self._starts_as_pissa():
            return
        if not any(self.init_lora_weights is init or self.init_lora_weights == init for init in LORA_INITS):
            raise LinchainError(
                f"LinChain does not support init_lora_weights={self.init_lora_weights!r}, which assumes ΔW = BA. "
                f"Accepted: {', '.join(map(repr, LORA_INITS))}, and 'pissa' with init_weights='identity'"
            )

    def _starts_as_pissa(self) -> bool:
        """Whether A and B start as PiSSA's; LinchainError where the chain would not start as the identity between them."""
        if not re.fullmatch(r"pissa(_niter_\d+)?", str(self.init_lora_weights)):
            return False
        if self.init_weights != "identity":
            raise LinchainError(
                f"LinChain does not support init_lora_weights={self.init_lora_weights!r} with "
                f"init_weights={self.init_weights!r}: PiSSA takes s·BA out of the base weight, which is what the adapter "
                "starts as only with init_weights='identity'"
            )
        if len(set(self.widths(self.r))) > 1:
            raise LinchainError(
                f"LinChain does not support init_lora_weights={self.init_lora_weights!r} with "
                f"chain_widths={self.chain_widths}: B starts anew where the widths differ. Use chain_length"
            )
        return True


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive_integer(name: str, value: object) -> None:
    if not _is_integer(value) or value <= 0:  # type: ignore[operator]
        raise LinchainError(f"{name} must be a positive integer, got {value!r}")


def _unknown_init(name: str, value: object, accepted: tuple) -> LinchainError:
    close = nearest(str(value), [init for init in accepted if isinstance(init, str)])
    hint = f"; did you mean {close!r}?" if close else "."
    return LinchainError(f"{name}={value!r} is unknown{hint} Accepted: {', '.join(map(repr, accepted))}")
