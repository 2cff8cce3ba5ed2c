"""What a method of the catalogue declares, and how the user's options become its PEFT configuration."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from linchain.errors import LinchainError, unknown_name
from linchain.methods.options import problem as wrong_value

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

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


# A comparison needs one rank and one scale for all low-rank methods: those of LinChain's protocol. PEFT's are 8 and 8.
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


_LEAVES = {
    "lora": "A plain LoRA adapter, which any LoRA server reads; `linchain export --to merged` puts it into the weights.",
    "foldable": "An adapter that `linchain export --to lora` makes a plain LoRA of, exactly; `--to merged` puts it into the "
    "weights.",
    "dense": "An adapter that `linchain export --to merged` puts into the weights; it equals no plain LoRA. "
    "docs/export.md has all that it converts to.",
    "model": "A plain Transformers model, in `model/` of the run's folder; there is nothing to export.",
}


@dataclass(frozen=True)
class Method:
    """A fine-tuning method as the catalogue knows it.

    Attributes:
        name: short and lower-case, as users write it.
        title: as its paper writes it.
        equation: the adapted layer in one line; x is a row, W0 frozen, s the scale.
        paper: its title.
        arxiv: its number on arXiv; None where there is no paper.
        trains: what is trained, and what stays as it starts.
        use: when to use it, one sentence or more.
        config: "module:class" of its PEFT configuration, imported when first needed; None where there is no adapter.
        options: what a user may set: fields of that class, and the names of `own`.
        defaults: where the catalogue's default is not the class's.
        fixed: fields that make the method what it is, and which a user may not set.
        settled_by: for an option, another one that settles it: when that is given, the default here does not hold.
        own: the options that are no fields of the configuration class; `start` and `optimizer` get them.
        start: "module:function" that makes the model to train where `linchain.methods.apply.apply` alone does not;
            called as function(model, config, own, backward), see `adapt`.
        frozen: regular expression for the names of adapter parameters that stay as they start.
        optimizer: "module:function" that makes the optimizer, called as function(model, lr, weight_decay, own). Without
            it the optimizer is AdamW with one learning rate.
        groups: the optimizer and its groups, in words.
        result: what a run leaves: a plain LoRA adapter ("lora"), an adapter that folds into one ("foldable") or that
            only merges into the weights ("dense"), or a whole model.
    """

    name: str
    title: str
    equation: str
    paper: str
    arxiv: str | None
    trains: str
    use: str
    config: str | None
    options: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settled_by: Mapping[str, str] = field(default_factory=dict)
    own: tuple[Option, ...] = ()
    start: str | None = None
    frozen: str | None = None
    optimizer: str | None = None
    groups: str = "AdamW, one learning rate for all."
    result: Literal["lora", "foldable", "dense", "model"] = "lora"

    def variant(self, name: str, title: str, *, fixed: Mapping[str, Any] | None = None, **changes: Any) -> Method:
        """This method under another name, with `fixed`, `own` and `defaults` beside those it has, and other changes."""
        settled = {**self.fixed, **(fixed or {})}
        defaults = {**self.defaults, **changes.pop("defaults", {})}
        own = (*self.own, *changes.pop("own", ()))
        options = (*changes.pop("options", self.options), *(option.name for option in own))
        return dataclasses.replace(
            self,
            name=name,
            title=title,
            fixed=settled,
            own=own,
            options=tuple(option for option in dict.fromkeys(options) if option not in settled),
            defaults={option: value for option, value in defaults.items() if option not in settled},
            **changes,
        )

    @property
    def reference(self) -> str:
        """The paper's title and its arXiv number."""
        return self.paper if self.arxiv is None else f"{self.paper}, arXiv {self.arxiv}"

    @property
    def leaves(self) -> str:
        """What a run leaves, and what becomes of it, in words."""
        return _LEAVES[self.result]

    @property
    def config_class(self) -> type[PeftConfig] | None:
        """The PEFT configuration class, with our methods registered; None where the method has no adapter."""
        if self.config is None:
            return None
        importlib.import_module("linchain.tuners.registration")
        return _named(self.config)

    def described_options(self) -> list[Option]:
        """The options with the defaults that hold here and the help that the configuration class gives."""
        fields = {f.name: f for f in dataclasses.fields(self.config_class)} if self.config_class else {}
        own = {option.name: option for option in self.own}
        return [own[name] if name in own else self._described(fields[name]) for name in self.options]

    def _described(self, of: dataclasses.Field) -> Option:
        default = of.default
        if default is dataclasses.MISSING:
            default = None if of.default_factory is dataclasses.MISSING else of.default_factory()
        text = " ".join(of.metadata.get("help", "").split())
        return Option(of.name, self.defaults.get(of.name, default), text)

    def peft_config(self, options: Mapping[str, Any], **common: Any) -> PeftConfig | None:
        """The PEFT configuration for the user's options; None where the method has no adapter.

        Args:
            options: the user's keys, from YAML or the command line.
            common: fields that the caller sets (`task_type`, `inference_mode`, …), passed as they are.

        Raises:
            LinchainError: For unknown, fixed or impossible options, all of them in one message.
        """
        if problems := self._problems(options):
            raise LinchainError("\n".join(problems))
        config_class = self.config_class
        if config_class is None:
            return None
        settled = {name for name, other in self.settled_by.items() if options.get(other) is not None}
        defaults = {name: value for name, value in self.defaults.items() if name not in settled}
        own = {option.name for option in self.own}
        # copies: PEFT appends a classifier's head to the very list that modules_to_save is given as
        given = {name: copy.deepcopy(value) for name, value in options.items() if name not in own}
        try:
            return config_class(**{**defaults, **given, **self.fixed, **common})
        except LinchainError:
            raise
        except (TypeError, ValueError) as error:
            raise LinchainError(f"method {self.name!r}: {error}") from None

    def own_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the options that are not the configuration's: the user's, else their defaults."""
        return {option.name: options.get(option.name, option.default) for option in self.own}

    def adapt(
        self,
        model: PreTrainedModel,
        options: Mapping[str, Any],
        backward: Callable[[int], None] | None = None,
        **common: Any,
    ) -> Any:
        """The model to train: `model` with this method's adapter on it, in place, or `model` itself where there is none.

        Args:
            model: the base model; on the meta device, nothing is computed from its weights.
            options, common: as for `peft_config`.
            backward: runs forward and backward over so many training batches, for a start that needs gradients.

        Raises:
            LinchainError: For options, target modules or weights that the method cannot do with.
        """
        from linchain.methods.apply import apply

        config = self.peft_config(options, **common)
        if self.start is not None:
            adapted = _named(self.start)(model, config, self.own_options(options), backward)
        else:
            assert config is not None
            adapted = apply(model, config)
        if self.frozen is not None:
            for name, parameter in adapted.named_parameters():
                if re.search(self.frozen, name):
                    parameter.requires_grad_(False)
        return adapted

    def make_optimizer(
        self, model: Any, options: Mapping[str, Any], lr: float, weight_decay: float
    ) -> Optimizer | None:
        """The optimizer of an adapted model's trainable parameters; None where it is the usual AdamW."""
        if self.optimizer is None:
            return None
        return _named(self.optimizer)(model, lr, weight_decay, self.own_options(options))

    def _problems(self, options: Mapping[str, Any]) -> list[str]:
        problems = []
        for name, value in options.items():
            if name in self.fixed:
                problems.append(f"method {self.name!r} has {name} = {self.fixed[name]!r} by definition, got {value!r}")
            elif not self.options:
                problems.append(f"method {self.name!r} has no options, got {name}")
            elif name not in self.options:
                problems.append(str(unknown_name(f"option of method {self.name!r}", name, self.options)))
            elif problem := wrong_value(name, value):
                problems.append(problem)
        return problems


def _named(target: str) -> Any:
    """What "module:name" stands for."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
