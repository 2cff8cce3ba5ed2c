"""Checkpoints of the authors' own forks of PEFT: LinChain's, and MoSLoRA's, from which it was made.

What they hold, read in the published code (github.com/wangfrombupt/linchain,
commonsense_reasoning/peft/src/peft/tuners/lora.py; github.com/wutaiqiang/MoSLoRA, the same file and
subject_driven_generation/peft/tuners/lora/layer.py):

- LinChain: `…q_proj.lora_A.weight`, `…q_proj.lora_mixer.0.weight` and `.bias` up to `mixer_num - 1`, and
  `…q_proj.lora_B.weight`. The mixers are `nn.Linear(r, r)`, with a bias that the paper does not have and that starts
  random. The forward is s · B(mixer_n(… mixer_1(A x))) with s = lora_alpha / r.
- MoSLoRA: `…q_proj.lora_AB.weight`, one `nn.Linear(r, r, bias=False)`.
- Both are forks of an early PEFT with one adapter a model: keys hold no adapter name and the file is adapter_model.bin.
  The MoSLoRA code for images and vision is a fork of a later PEFT, whose live keys hold one
  (`lora_AB.default.weight`); such a name is accepted for both.
- adapter_config.json: `peft_type` "LORA", r, lora_alpha, target_modules, lora_dropout, fan_in_fan_out, bias,
  modules_to_save, and keys that PEFT does not have: `lora_use_mixer`, `mixer_num`, `merge_weights`, `enable_lora`,
  `lora_use_mixer_pattern`.

Their own merge leaves the biases out, and fails when it is called (it multiplies modules instead of weights).
A chain with biases is a chain without them plus a constant: y = W x + s · B(W_n … W_1 A x + c), with
c = W_n … W_2 b_1 + … + b_n. The constant s · B c belongs into the layer's bias, for which LoRA has no place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linchain.convert.adapter import AdapterFiles
from linchain.convert.lora_to_linchain import linchain_config
from linchain.errors import LinchainError
from linchain.ops import stack
from linchain.tuners.registration import LinChainConfig

if TYPE_CHECKING:
    from peft import LoraConfig

_MIXER_KEY = re.compile(
    r"(?P<module>.+)\.(?:lora_mixer(?:\.(?P<adapter>[^.\d][^.]*))?\.(?P<index>\d{1,4})|lora_AB(?:\.[^.]+)?)"
    r"\.(?P<leaf>weight|bias)$"
)
_NAMED_FACTOR_KEY = re.compile(r"(.+\.lora_[AB])\.[^.]+\.weight$")


@dataclass(frozen=True)
class Fork:
    """A fork's checkpoint. Keys of `tensors` are PEFT's; `mixers` and `biases` are by the module's key prefix.

    Attributes:
        config: A plain LoRA configuration: the fork's own keys are left out.
        tensors: lora_A (r, in), lora_B (out, r) and what else is not of the mixers.
        mixers: W_1 … W_n of each adapted module, each (r, r).
        biases: b_1 … b_n of each adapted module, each (r,); zeros where the checkpoint has none.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    mixers: dict[str, list[Tensor]]
    biases: dict[str, list[Tensor]]

    @property
    def has_biases(self) -> bool:
        """Whether any bias is other than zero."""
        return any(bool(bias.any()) for biases in self.biases.values() for bias in biases)

    def linchain(self) -> tuple[LinChainConfig, dict[str, Tensor]]:
        """The LinChain adapter with the mixers' weights as its chain: the fork's function where there are no biases."""
        length = len(next(iter(self.mixers.values())))
        tensors = dict(self.tensors)
        for module, mixers in self.mixers.items():
            tensors[f"{module}.lora_A.chain"] = stack(mixers)
        return linchain_config(self.config, length), tensors

    def output_biases(self) -> dict[str, Tensor]:
        """s · B (W_n … W_2 b_1 + … + b_n) of each adapted module, shape (out,), float64, by the module's key prefix."""
        constants = {}
        for module, mixers in self.mixers.items():
            h = torch.zeros(self.config.r, dtype=torch.float64)
            for weight, bias in zip(mixers, self.biases[module], strict=True):
                h = weight.double() @ h + bias.double()
            scale = self.config.lora_alpha / self.config.r
            constants[module] = scale * self.tensors[f"{module}.lora_B.weight"].double() @ h
        return constants


def read_fork(files: AdapterFiles) -> Fork:
    """Sort a fork's checkpoint into LoRA's part and the mixers.

    Raises LinchainError for `enable_lora` (that layer of the fork has no mixers), and where mixers are missing or do
    not have the shape (r, r).
    """
    if files.config.get("enable_lora"):
        raise LinchainError(f"{files.folder}: enable_lora={files.config['enable_lora']!r} is not supported")
    if files.config.get("rank_pattern") or files.config.get("use_rslora"):
        raise LinchainError(f"{files.folder}: rank_pattern and use_rslora do not exist in the authors' forks")
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, dict[int, Tensor]]] = {}
    for key, tensor in files.tensors.items():
        if match := _MIXER_KEY.match(key):
            leaves = parts.setdefault(match["module"], {"weight": {}, "bias": {}})
            leaves[match["leaf"]][int(match["index"] or 0)] = tensor
        else:
            named = _NAMED_FACTOR_KEY.match(key)
            tensors[f"{named[1]}.weight" if named else key] = tensor
    config = files.peft_config()
    length = max((len(leaves["weight"]) for leaves in parts.values()), default=0)
    if not length:
        raise LinchainError(f"{files.folder} has keys of mixers, but no mixer's weight")
    mixers, biases = {}, {}
    for module, leaves in parts.items():
        _check_mixers(module, leaves, tensors, config.r, length)
        mixers[module] = [leaves["weight"][i] for i in range(length)]
        biases[module] = [leaves["bias"].get(i, torch.zeros(config.r)) for i in range(length)]
    return Fork(config, tensors, mixers, biases)


def _check_mixers(module: str, leaves: dict[str, dict[int, Tensor]], tensors: dict, r: int, length: int) -> None:
    for factor in ("lora_A", "lora_B"):
        if f"{module}.{factor}.weight" not in tensors:
            raise LinchainError(f"{module} has mixers but no {factor}.weight")
    if sorted(leaves["weight"]) != list(range(length)):
        raise LinchainError(
            f"{module} has mixers {sorted(leaves['weight'])}; expected 0 … {length - 1}, as other modules"
        )
    for index, weight in leaves["weight"].items():
        if tuple(weight.shape) != (r, r):
            raise LinchainError(f"{module}: mixer {index} has shape {tuple(weight.shape)}; expected {(r, r)}")
    for index, bias in leaves["bias"].items():
        if tuple(bias.shape) != (r,):
            raise LinchainError(f"{module}: the bias of mixer {index} has shape {tuple(bias.shape)}; expected {(r,)}")
