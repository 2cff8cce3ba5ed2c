"""Base models for exports: loading them, and putting an adapter on them with every tensor accounted for."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linchain.convert.fork import Fork
from linchain.errors import LinchainError
from linchain.evaluation.models import LABELS_FILE, adapter_labels, head_options, load_model_config, loading, model_path
from linchain.evaluation.quantization import (
    LIBRARIES,
    adapter_quantization,
    dequantized,
    load_options,
    prepare,
    stored_quantization,
)
from linchain.methods.attach import attach
from linchain.methods.untrusted import shown
from linchain.tasks.sentence_pair import MOST_CLASSES

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_EMBEDDING_KEY = re.compile(r"\.(embed_tokens|word_embeddings|wte)(\.base_layer)?\.weight$")
_CLASSIFIER_HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


class BaseModel:
    """A base model by name: its configuration, fitted to an adapter, and as many fresh copies of it as are asked for.

    Args:
        name: Folder, Hub name, or `starter`.
        adapter: The configuration of the adapter that is to lie on it; its task type chooses the model's class.
        tensors: The adapter's tensors; a saved classification head among them says how many classes there are.
        folder: The adapter's folder, which may name the classes, and what the base was quantised to in training.
        dense: Whether the copies have the weights that the adapter was trained over, dense: those of a quantised base
            dequantised. Else they are as the checkpoint stores them.

    Raises LinchainError for a quantised base that cannot be made dense where it has to be.
    """

    def __init__(
        self, name: str, adapter: PeftConfig, tensors: dict[str, Tensor], folder: Path, dense: bool = False
    ) -> None:
        self.name = name
        self.config = load_model_config(name)
        stored = stored_quantization(self.config)
        # the adapter's own word is for the checkpoint that it names; another one may be quantised already
        self._trained = {} if stored else adapter_quantization(folder)
        self.trained_over: str | None = stored or self._trained.get("quantization")
        self.is_dequantized = dense and self.trained_over is not None
        self.is_quantized = stored is not None and not dense
        if dense and stored not in (None, *LIBRARIES):
            raise LinchainError(
                f"base model {name!r} is quantised ({stored}), and linchain makes only weights of {' and '.join(LIBRARIES)} "
                "dense again. Name the model it was made from with --model, or leave the adapter unmerged"
            )
        self._task_type = adapter.task_type
        self._embedding = _saved_embedding(tensors)
        for option, value in _head(adapter, tensors, folder).items():
            setattr(self.config, option, value)

    def model_class(self) -> Any:
        """The transformers class that it is loaded with."""
        import transformers

        if self._task_type is not None:
            return getattr(transformers, _AUTO_CLASSES[self._task_type])
        if not self.config.architectures:
            return transformers.AutoModelForCausalLM
        architecture = self.config.architectures[0]
        found = getattr(transformers, architecture, None)
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            raise LinchainError(
                f"model {self.name!r} is a {shown(architecture)}, a model that transformers does not have"
            )
        return found

    def load(self, dtype: Any = "auto", config: PreTrainedConfig | None = None) -> PreTrainedModel:
        """A fresh copy on the CPU, for evaluation. `config` replaces its own configuration.

        Where the adapter was trained with a resized vocabulary, and so holds embeddings, the copy is resized to it.
        """
        if self.is_dequantized:
            model = dequantized(self._quantized(config or self.config))
            return self._resized(model if dtype == "auto" else model.to(dtype))
        if self.is_quantized:
            return self._resized(self._quantized(config or self.config))
        what = f"base model {self.name!r}"
        return self._resized(
            load_checkpoint(self.model_class(), model_path(self.name), what, dtype, config or self.config)
        )

    def load_as_trained(self) -> PreTrainedModel:
        """A fresh copy of a quantised base on the CPU, quantised and computing as it did in training."""
        return self._resized(prepare(self._quantized(self.config)))

    def _quantized(self, config: PreTrainedConfig) -> PreTrainedModel:
        options: dict[str, Any] = {"dtype": "auto"}
        if self._trained:
            options = load_options(self._trained["quantization"], self._trained["dtype"], config)
        what, path = f"base model {self.name!r}", model_path(self.name)
        # transformers writes the quantisation into the configuration, and would choose a GPU
        return load_checkpoint(
            self.model_class(), path, what, config=copy.deepcopy(config), device_map="cpu", **options
        )

    def _resized(self, model: PreTrainedModel) -> PreTrainedModel:
        embedding: Any = model.get_input_embeddings()
        if self._embedding is not None and self._embedding != embedding.weight.shape:
            if self._embedding[1:] != embedding.weight.shape[1:]:
                raise LinchainError(
                    f"the adapter was made for another model than {self.name!r}: it holds an embedding of shape "
                    f"{tuple(self._embedding)}, the model's is {tuple(embedding.weight.shape)}"
                )
            model.resize_token_embeddings(self._embedding[0], mean_resizing=False)
        return model

    def skeleton(self, config: PreTrainedConfig) -> PreTrainedModel:
        """The model that `config` describes, without weights."""
        cls = self.model_class()
        with torch.device("meta"):
            return cls.from_config(config) if hasattr(cls, "from_config") else cls._from_config(config)


def load_checkpoint(
    cls: Any, path: str, what: str, dtype: Any, config: PreTrainedConfig | None = None, **options: Any
) -> PreTrainedModel:
    """`cls.from_pretrained` with its `options`, from safetensors, in evaluation mode; LinchainError where that fails."""
    with loading(what):
        return cls.from_pretrained(path, dtype=dtype, use_safetensors=True, config=config, **options).eval()


def attach_fork(model: PreTrainedModel, fork: Fork) -> PeftModel:
    """Put a fork's adapter on `model` as it was trained: its mixers, biases and all, behind A."""
    peft_model = attach(model, fork.config, fork.tensors)
    for module, mixers in fork.mixers.items():
        layer: Any = peft_model.get_submodule(module)
        layer.lora_A["default"] = _MixedA(layer.lora_A["default"], mixers, fork.biases[module])
    return peft_model.eval()


class _MixedA(nn.Module):
    """x ↦ mixer_n(… mixer_1(A x)), as the fork computes it."""

    def __init__(self, a: nn.Linear, mixers: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.a = a
        self.mixers = [(weight.to(a.weight), bias.to(a.weight)) for weight, bias in zip(mixers, biases, strict=True)]

    @property
    def weight(self) -> Tensor:
        """A's weight, where PEFT reads the dtype of the input from."""
        return self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        for weight, bias in self.mixers:
            h = nn.functional.linear(h, weight, bias)
        return h


def _saved_embedding(tensors: dict[str, Tensor]) -> torch.Size | None:
    """The shape of the input embedding that lies among the adapter's tensors; None where none does."""
    return next((tensor.shape for key, tensor in tensors.items() if _EMBEDDING_KEY.search(key)), None)


def _head(adapter: PeftConfig, tensors: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    """What a classifier's head is made with: the classes' names where the folder has them, else their number."""
    if adapter.task_type not in ("SEQ_CLS", "TOKEN_CLS"):
        return {}
    if (folder / LABELS_FILE).is_file():
        return head_options(adapter_labels(folder))
    classes = [t.shape[0] for key, t in tensors.items() if key.endswith(_CLASSIFIER_HEADS) and ".lora_" not in key]
    if classes and classes[0] > MOST_CLASSES:
        raise LinchainError(f"adapter {folder} holds a head for {classes[0]} classes; {MOST_CLASSES:,} are accepted")
    return {"num_labels": classes[0]} if classes else {}
