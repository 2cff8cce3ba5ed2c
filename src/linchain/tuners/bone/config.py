"""`BoneConfig`: which blocks move which weights, and what an old checkpoint's configuration meant by it."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig
from peft.utils import PeftType

from linchain.errors import LinchainError, nearest

FORMS = ("col", "row", "plain")
BIASES = ("none", "all", "bone_only")


@dataclass
class BoneConfig(PeftConfig):
    """Configuration of Bone, "block affine" (arXiv 2409.15371 v3): W'_ac = W_ac (I + B) + B for every r×r block of W.

    There is no scale and no dropout. The type name is the one that PEFT used for Bone until it dropped it, so that its old
    checkpoints load here: they name no `form`, their `init_weights` says what they hold, and a warning says what was read.

    Args:
        r: Size of a block. 64, the paper's. Both widths of every adapted weight must be divisible by it ("plain": none).
        form: "col", one block for each row of blocks (the paper's for LLaMA; PEFT's MissConfig(init_weights="bat")), with
            r·out parameters a weight; its step costs what full fine-tuning's matrix products cost. "row", one block for
            each column of blocks (the paper's for RWKV), with r·in parameters; computed from activations alone, it is
            cheaper and works over any quantised base. "plain", without the guidance of the weight, is what PEFT's Bone
            was before it became MiSS; for old checkpoints (new work: PEFT's MissConfig).
        target_modules: Names (matched at the end) or one regular expression of the modules to adapt, or "all-linear".
            None: the paper's where it is known (LLaMA: all seven projections), else PEFT's choice for MiSS.
        exclude_modules: Names or one regular expression of modules to leave out.
        init_weights: True: blocks start at zero, so that the adapter starts as an identity. False: small random
            blocks; for tests.
        keep_weight: Keep the original weights in memory while merged, so that unmerging restores their very bits. Otherwise
            they are computed back, which is refused where too little would be left of them. Quantised weights, which
            cannot be computed back, are kept in any case.
        layers_to_transform: Index or indices of the layers to adapt.
        layers_pattern: Name of the list of layers, for `layers_to_transform`.
        bias: Which biases train: "none", "all" or "bone_only" (those of adapted modules).
        modules_to_save: Modules that train in full and are saved with the adapter.

    Raises:
        LinchainError: For a rank, form, start or bias that is none.
    """

    r: int = field(default=64, metadata={"help": "Size of the blocks; divides both widths of every adapted weight."})
    form: Literal["col", "row", "plain"] = field(
        default=None,  # type: ignore[arg-type]
        metadata={
            "help": 'One block for each row of blocks ("col") or for each column ("row"); "plain" is MiSS, without the '
            "guidance of the weight."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or one regular expression of the modules to adapt."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or one regular expression of modules to leave out."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "True: blocks start at zero. False: at random, for tests."}
    )
    keep_weight: bool = field(
        default=False, metadata={"help": "Keep the original weights while merged, so that unmerging is exact."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Index or indices of the layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, for layers_to_transform."}
    )
    bias: Literal["none", "all", "bone_only"] = field(
        default="none", metadata={"help": "Which biases train: none, all or bone_only."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that train in full and are saved with the adapter."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form is None:
            self.form = self._form_of_old_checkpoint() if self.peft_type is not None else "col"
        self.peft_type = PeftType.BONE  # type: ignore[attr-defined]
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r <= 0:
            raise LinchainError(f"r must be a positive integer, got {self.r!r}")
        _check_choice("form", self.form, FORMS)
        _check_choice("bias", self.bias, BIASES)
        if not isinstance(self.init_weights, bool):
            hint = '. PEFT\'s init_weights="bat" is form="col" here' if self.init_weights == "bat" else ""
            raise LinchainError(f"init_weights must be True or False, got {self.init_weights!r}{hint}")
        if isinstance(self.target_modules, str):
            _check_pattern(self)
        self.target_modules = _as_set(self.target_modules)  # type: ignore[assignment]
        self.exclude_modules = _as_set(self.exclude_modules)  # type: ignore[assignment]

    def _form_of_old_checkpoint(self) -> str:
        """The form of a checkpoint of PEFT's own Bone, which is the only one to name a type and no form."""
        bat = str(self.init_weights) == "bat"
        form = "col" if bat else "plain"
        warnings.warn(
            f"a configuration of type BONE that names no form is one of PEFT's former Bone: with init_weights="
            f"{self.init_weights!r} it is read as bone-{form}" + ("" if bat else ", which is today's MiSS"),
            stacklevel=2,
        )
        if self.bias != "none":
            warnings.warn(
                f"bias={self.bias!r}: PEFT's former Bone did not save its biases, so none are read", stacklevel=2
            )
            self.bias = "none"
        self.init_weights = True if bat else self.init_weights
        return form


def _as_set(names: list[str] | str | None) -> set[str] | str | None:
    return set(names) if isinstance(names, list | tuple) else names


def _check_choice(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        close = nearest(str(value), accepted)
        hint = f"; did you mean {close!r}?" if close else "."
        raise LinchainError(f"{name}={value!r} is unknown{hint} Accepted: {', '.join(map(repr, accepted))}")


def _check_pattern(config: BoneConfig) -> None:
    """A regular expression names its layers itself."""
    for name in ("layers_to_transform", "layers_pattern"):
        if getattr(config, name) is not None:
            raise LinchainError(f"{name} cannot be used when target_modules is one regular expression")
    try:
        re.compile(str(config.target_modules))
    except re.error as error:
        raise LinchainError(f"target_modules={config.target_modules!r} is no regular expression: {error}") from error
