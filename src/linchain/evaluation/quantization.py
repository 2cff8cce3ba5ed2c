"""Base models whose frozen weights are stored in 8 or 4 bits: loaded so, made ready for training, and made dense again.

Training an adapter over them is QLoRA (Dettmers et al., 2023, arXiv 2305.14314): the weights stay quantised and are
dequantised, a layer at a time, where they are multiplied by; what is trained is float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from linchain.errors import LinchainError, unknown_name
from linchain.methods.untrusted import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

Quantization = Literal["nf4", "int8", "torchao-int8"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
# What the base of an adapter was quantised to while it was trained, beside the adapter: the keys of the section `model`.
QUANTIZATION_FILE = "quantization.json"
# Those of which weights are prepared for training and made dense again here, as checkpoints name them.
LIBRARIES = ("bitsandbytes", "torchao")
_PACKAGES: dict[str, str] = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao-int8": "torchao"}


def check_method(base: str, method: str, options: Mapping[str, Any]) -> None:
    """LinchainError where the method of that name cannot be trained over a quantised base, which messages call `base`."""
    from types import SimpleNamespace

    from linchain import methods
    from linchain.methods.apply import moves_base

    found = methods.get(method)
    if found.config is None:
        raise LinchainError(f"{base} does not go with method {method!r}, which trains the weights themselves")
    if moves_base(SimpleNamespace(**{**options, **found.fixed})):
        raise LinchainError(
            f"{base} does not go with method {method!r} and its start, which is taken out of the weights: quantised again "
            "they would not be less by it"
        )


def check_installed(kind: Quantization) -> None:
    """LinchainError where the library that `kind` needs is missing."""
    package = _PACKAGES[kind]
    if find_spec(package) is None:
        raise LinchainError(f"model.quantization {kind} needs {package}: pip install 'linchain[quantization]'")


def load_options(kind: Quantization, dtype: Any, config: PreTrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` takes to quantise a checkpoint while it is loaded.

    `nf4` is QLoRA's: 4-bit NormalFloat in blocks of 64 with quantised scales ("double quantisation"), multiplied in
    `dtype`; `int8` is LLM.int8() (arXiv 2208.07339), one scale a row; `torchao-int8` is torchao's int8 weights, one scale
    a row. The output embedding, and a classifier's head, are not quantised.

    Args:
        dtype: A dtype or its name: that of all that is not quantised, and of nf4's products. `"auto"` is the checkpoint's.
        config: The model's configuration.

    Raises LinchainError for a missing library and for a checkpoint that is quantised already.
    """
    import torch
    from transformers import BitsAndBytesConfig, TorchAoConfig

    check_installed(kind)
    if (stored := stored_quantization(config)) is not None:
        raise LinchainError(f"model.quantization {kind}: the model is quantised already ({stored}); leave the key out")
    if dtype == "auto":
        dtype = config.get_text_config().dtype or torch.float32
    elif isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    quantization: Any
    if kind == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        quantization = TorchAoConfig(Int8WeightOnlyConfig())
    elif kind == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    else:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"dtype": dtype, "quantization_config": quantization}


def stored_quantization(config: PreTrainedConfig) -> str | None:
    """The quantisation method of a checkpoint, such as `bitsandbytes`; None where it is not quantised."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Makes a quantised model ready for training and for evaluation, in place: both must compute the same.

    As PEFT prepares it: with bitsandbytes, what is not quantised (norms, embeddings, biases) becomes float32. Its gradient
    checkpointing, and the gradient of the embeddings' output that this asks for, are left out: ours is not reentrant and
    asks for none.
    """
    import peft

    peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    layers: list[Any] = list(model.modules())
    for module in layers:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # in evaluation it would pack the weights for kernels that have no backward, and training would go on with those
            module.support_avx512bf16_for_cpu = False
    return model


def is_quantized(weight: Any) -> bool:
    """Whether a layer's weight is one of bitsandbytes' or torchao's."""
    return type(weight).__name__ in ("Params4bit", "Int8Params") or type(weight).__module__.startswith("torchao.")


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a parameter as it is stored, with the scales of a quantised one."""
    from torch import Tensor

    kind, size = type(weight).__name__, weight.numel() * weight.element_size()
    if kind == "Params4bit":
        parts = vars(weight)["quant_state"].as_dict().values()
        return size + sum(part.nbytes for part in parts if isinstance(part, Tensor))
    if kind == "Int8Params":
        return size + 4 * weight.shape[0]  # a float32 a row, which bitsandbytes keeps now here, now with the layer
    if type(weight).__module__.startswith("torchao."):
        flattened: Any = weight
        return sum(getattr(weight, name).nbytes for name in flattened.__tensor_flatten__()[0])
    return size


def dequantized(model: Any) -> PreTrainedModel:
    """A quantised model with dense weights in the place of its quantised ones, in place, as its layers multiply by them."""
    from peft.utils.integrations import dequantize_module_weight

    for name, module in list(model.named_modules()):
        if is_quantized(getattr(module, "weight", None)):
            model.set_submodule(name, _dense(module, dequantize_module_weight(module).detach()))
    model.hf_quantizer.remove_quantization_config(model)
    vars(model).pop("_weight_conversions", None)  # how it was read, which saving would turn round
    return model


def _dense(module: Any, weight: Tensor) -> nn.Module:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    rows, columns = weight.shape
    if getattr(module, "source_cls", None) is Conv1D:  # bitsandbytes holds its weight transposed
        dense: Any = Conv1D(rows, columns)
        weight = weight.T.contiguous()
    else:
        dense = nn.Linear(columns, rows, bias=module.bias is not None, device="meta")
    dense.weight = nn.Parameter(weight, requires_grad=False)
    dense.bias = module.bias
    return dense


def adapter_quantization(folder: Path) -> dict[str, Any]:
    """The keys `quantization` and `dtype` of `model` that the adapter in `folder` was trained with; empty where the base was
    not quantised by us. LinchainError where the file cannot be read or says something else."""
    file = folder / QUANTIZATION_FILE
    if not file.is_file():
        return {}
    found = read_json(file)
    if not isinstance(found, dict) or found.keys() != {"quantization", "dtype"}:
        raise LinchainError(f"{file}: expected the keys quantization and dtype, found {found!r:.80}")
    for key, accepted in (("quantization", get_args(Quantization)), ("dtype", get_args(Dtype))):
        if found[key] not in accepted:
            raise unknown_name(f"{key} in {file}", str(found[key]), accepted)
    return found
