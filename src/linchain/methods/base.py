"""What a method of the catalogue declares, and how the user's options become its PEFT configuration."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linchain.errors import LinchainError, unknown_name
from linchain.methods.options import problem as wrong_value

if TYPE_CHECKING:
    from peft import PeftConfig

# The fields of peft.LoraConfig that a user of any low-rank method may set. Not here: what the caller decides (task
# type, inference mode), and the switches that turn LoRA into another method, which has its own entry in the catalogue.
LORA_OPTIONS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "init_lora_weights",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "bias",
    "fan_in_fan_out",
    "ensure_weight_tying",
)


# A comparison needs one rank and one scale for all methods: those of LinChain's protocol. PEFT's defaults are 8 and 8.
PROTOCOL = {"r": 16, "lora_alpha": 32}


@dataclass(frozen=True)
class Option:
    """One option of a method, for showing.

    Attributes:
        name: as written in YAML and on the command line.
        default: what holds when it is left out.
        help: one sentence or more.
    """

    name: str
    default: Any
    help: str


@dataclass(frozen=True)
class Method:
    """A fine-tuning method as the catalogue knows it.

    Attributes:
        name: short and lower-case, as users write it.
        title: as its paper writes it.
        equation: the adapted layer in one line; x is a row, W0 frozen, s the scale.
        reference: title of the paper and its arXiv number.
        config: "module:class" of its PEFT configuration, imported when first needed.
        options: fields of that class that a user may set.
        defaults: where the catalogue's default is not the class's.
        fixed: fields that make the method what it is, and which a user may not set.
        settled_by: for an option, another one that settles it: when that is given, the default here does not hold.
    """

    name: str
    title: str
    equation: str
    reference: str
    config: str
    options: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settled_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_class(self) -> type[PeftConfig]:
        """The PEFT configuration class, with our methods registered."""
        importlib.import_module("linchain.tuners.registration")
        module, _, name = self.config.partition(":")
        return getattr(importlib.import_module(module), name)

    def described_options(self) -> list[Option]:
        """The options with the defaults that hold here and the help that the configuration class gives."""
        fields = {f.name: f for f in dataclasses.fields(self.config_class)}
        described = []
        for name in self.options:
            default = fields[name].default
            if default is dataclasses.MISSING:
                factory = fields[name].default_factory
                default = None if factory is dataclasses.MISSING else factory()
            text = " ".join(fields[name].metadata.get("help", "").split())
            described.append(Option(name, self.defaults.get(name, default), text))
        return described

    def peft_config(self, options: Mapping[str, Any], **common: Any) -> PeftConfig:
        """The PEFT configuration for the user's options.

        Args:
            options: the user's keys, from YAML or the command line.
            common: fields that the caller sets (`task_type`, `inference_mode`, …), passed as they are.

        Raises:
            LinchainError: For unknown, fixed or impossible options, all of them in one message.
        """
        if problems := self._problems(options):
            raise LinchainError("\n".join(problems))
        settled = {name for name, other in self.settled_by.items() if options.get(other) is not None}
        defaults = {name: value for name, value in self.defaults.items() if name not in settled}
        try:
            return self.config_class(**{**defaults, **options, **self.fixed, **common})
        except LinchainError:
            raise
        except (TypeError, ValueError) as error:
            raise LinchainError(f"method {self.name!r}: {error}") from None

    def _problems(self, options: Mapping[str, Any]) -> list[str]:
        problems = []
        for name, value in options.items():
            if name in self.fixed:
                problems.append(f"method {self.name!r} has {name} = {self.fixed[name]!r} by definition, got {value!r}")
            elif name not in self.options:
                problems.append(str(unknown_name(f"option of method {self.name!r}", name, self.options)))
            elif problem := wrong_value(name, value):
                problems.append(problem)
        return problems
