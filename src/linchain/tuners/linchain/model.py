"""`LinChainModel`: PEFT's LoraModel with chains in its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from peft import PeftConfig
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from linchain.errors import LinchainError
from linchain.tuners.linchain.config import LinChainConfig
from linchain.tuners.linchain.layer import LinChainLayer, add_chain_to, linchain_class, tie_chain
from linchain.tuners.targets import LINCHAIN_TARGETS, refuse_attention_output, refuse_target, refuse_tensor_parallel

# PEFT's layer files whose layers reach A through `lora_A[adapter](x)` and ΔW through `get_delta_weight`. Its layers for
# Megatron and TransformerEngine are not among them.
_SUPPORTED_LAYER_FILES = ("layer", "bnb", "gptq", "awq", "aqlm", "eetq", "hqq", "inc", "torchao")

# add_weighted_adapter's types that work on the factors, not on ΔW
_BY_FACTOR = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")


class LinChainModel(lora.LoraModel):
    """Creates a LinChain model from a pretrained one (arXiv 2411.00039).

    Args:
        model: The model to adapt, in place.
        config: A `LinChainConfig`.
        adapter_name: Name of the adapter.
        low_cpu_mem_usage: Create the adapter on the meta device; its values come with a checkpoint.

    >>> from peft import get_peft_model
    >>> from torch import nn
    >>> from linchain import LinChainConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 32)), LinChainConfig(r=4, chain_length=2, target_modules=["0"]))
    >>> {name.split("lora_")[1]: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    {'A.default.weight': (4, 64), 'A.default.chain': (2, 4, 4), 'B.default.weight': (32, 4)}
    """

    target_module_mapping = LINCHAIN_TARGETS

    def _check_target_module_compatiblity(self, peft_config: PeftConfig, model: nn.Module, target_name: str) -> None:
        super()._check_target_module_compatiblity(peft_config, model, target_name)
        refuse_target("LinChain", model, target_name)

    def _create_new_module(  # type: ignore[override]
        self, config: LinChainConfig, adapter_name: str, target: nn.Module, **kwargs: Any
    ) -> nn.Module:
        _refuse_target(config, kwargs.get("target_name", ""), target)
        tied = bool(kwargs.get("tied_adapter"))
        layer: Any = super()._create_new_module(config, adapter_name, target, **kwargs)
        if type(layer).__module__.removeprefix("peft.tuners.lora.") not in _SUPPORTED_LAYER_FILES:
            raise LinchainError(
                f"LinChain does not support PEFT's layer {type(layer).__module__}.{type(layer).__name__}"
            )
        if tied:
            layer.__class__ = linchain_class(layer.__class__)
            tie_chain(layer, self.model.get_input_embeddings(), adapter_name)
        else:
            add_chain_to(layer, adapter_name, config)
        return layer

    def add_weighted_adapter(  # type: ignore[override]
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: Any = "svd",
        **kwargs: Any,
    ) -> None:
        """Add an adapter that combines others: a chain of length 0, that is, a LoRA, made from the folded chains.

        "cat" is exact, "svd" is exact up to its rank, and the other types that end in "_svd" treat ΔW as PEFT does.
        Arguments are those of `peft.LoraModel.add_weighted_adapter`.

        Raises:
            LinchainError: For a type that combines A with A and B with B, such as "linear", of several chains.
        """
        chained = [name for name in adapters if getattr(self.peft_config.get(name), "chain_length", 0)]
        if chained and len(adapters) > 1 and combination_type in _BY_FACTOR:
            raise LinchainError(
                f"LinChain does not support add_weighted_adapter with combination_type={combination_type!r}: it combines "
                "A with A and B with B, which are not comparable where chains lie between. "
                "Use 'cat' or 'svd', which are exact, or one of the other types that end in '_svd'"
            )
        with self._folded(adapters):
            super().add_weighted_adapter(adapters, weights, adapter_name, combination_type=combination_type, **kwargs)

    def _svd_generalized_task_arithmetic_weighted_adapter(
        self, combination_type, adapters, weights, new_rank, target, target_lora_A, target_lora_B, *args, **kwargs
    ):
        """PEFT's, which fails where the rank is more than a weight's smaller side: there, filled up with zeros."""
        sides = (target_lora_A.shape[-1], target_lora_B.shape[0])
        rank = min(new_rank, *sides) if target_lora_A.dim() == 2 else new_rank
        a, b = super()._svd_generalized_task_arithmetic_weighted_adapter(
            combination_type, adapters, weights, rank, target, target_lora_A, target_lora_B, *args, **kwargs
        )
        missing = new_rank - rank
        return (F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))) if missing else (a, b)

    @contextmanager
    def _folded(self, adapters: list[str]) -> Iterator[None]:
        """Within it the adapters look like LoRA adapters, to PEFT: their chains folded, their configs of length 0."""
        configs = {name: self.peft_config[name] for name in adapters if name in self.peft_config}
        with ExitStack() as stack:
            for layer in self.model.modules():
                if isinstance(layer, LinChainLayer):
                    for name in configs:
                        if name in layer.lora_A or name in layer.lora_embedding_A:
                            stack.enter_context(layer.folded(name))
            for name, config in configs.items():
                self.peft_config[name] = _as_lora_ranked(config)
            try:
                yield
            finally:
                self.peft_config.update(configs)

    @classmethod
    def _convert_state_dict_for_initial_model(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise LinchainError(
            "LinChain does not support path_initial_model_for_weight_conversion: it subtracts initial A and B, which the "
            "chain makes wrong. Fold the adapter to LoRA instead (linchain export)"
        )


def _as_lora_ranked(config: Any) -> LinChainConfig:
    """The config with the chain folded away; its rank is that of the folded factors, r_n."""
    scale_kept = config.widths(config.r)[-1]
    return replace(config, r=scale_kept, chain_length=0, chain_widths=None)


def _refuse_target(config: LinChainConfig, name: str, target: nn.Module) -> None:
    base_layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if config._custom_modules:
        raise LinchainError("LinChain does not support custom LoRA modules: they read lora_A without its chain")
    refuse_tensor_parallel("LinChain", base_layer)
    refuse_attention_output("LinChain", name, base_layer)
