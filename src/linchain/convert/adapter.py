"""Adapters as they lie in a folder or in a live model: their configuration and their tensors, by PEFT's saved keys."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linchain.convert.forms import Kind
from linchain.errors import LinchainError, first_line, unknown_name
from linchain.methods.untrusted import CONFIG_FILE, WEIGHTS_FILE, read_config, read_tensors, shown
from linchain.paths import user_path
from linchain.tuners.registration import BoneConfig, LinChainConfig

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

# PEFT's keys of saved tensors begin so, before the module's name in the base model
BASE_PREFIX = "base_model.model."
MOST_NAMED = 20  # unknown keys in a warning

# What a checkpoint of the LinChain and MoSLoRA authors' forks of PEFT has beside LoRA's keys (see convert/fork.py).
_FORK_KEY = re.compile(r"\.lora_(mixer|AB)\.")
_OTHER_KEYS = {"peft_type", "runtime_config"} | {
    "enable_lora", "lora_use_mixer", "lora_use_mixer_pattern", "merge_weights", "mixer_num",
}  # fmt: skip
_A_KEY = re.compile(r"(?P<module>.+)\.lora_(?:A\.weight|embedding_A)$")


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """A folder's adapter, as read: the JSON of its configuration and its tensors on the CPU."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def kind(self) -> Kind:
        """Which of the kinds in the table of conversions it is."""
        kind = self.config["peft_type"]
        if kind == "LORA":
            return "fork" if any(_FORK_KEY.search(key) for key in self.tensors) else "lora"
        if kind == "MISS":
            form = self.config.get("init_weights")
            return "miss-bat" if form == "bat" else "miss-mini" if form == "mini" else "miss"
        if kind == "BONE":
            form = self.peft_config().form  # an old checkpoint's JSON has none
            return "bone-col" if form == "col" else "bone-row" if form == "row" else "bone-plain"
        return "linchain"

    @property
    def is_former_bone(self) -> bool:
        """Whether it was saved by PEFT's own Bone, which has no forms."""
        return self.config["peft_type"] == "BONE" and "form" not in self.config

    def peft_config(self) -> Any:
        """The configuration as PEFT's object.

        Keys that PEFT does not know are left out, as PEFT does, with a warning unless they are a fork's or say nothing.
        Raises LinchainError where the configuration itself is refused.
        """
        from peft import LoraConfig, MissConfig

        classes: dict[str, Any] = {
            "LINCHAIN": LinChainConfig,
            "LORA": LoraConfig,
            "BONE": BoneConfig,
            "MISS": MissConfig,
        }
        cls = classes[self.config["peft_type"]]
        known = init_fields(cls)
        unknown = {key for key, value in self.config.items() if value} - known - _OTHER_KEYS
        if unknown:
            names = ", ".join(shown(key) for key in sorted(unknown)[:MOST_NAMED])
            more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
            warnings.warn(f"{self.folder / CONFIG_FILE}: unknown keys ignored: {names}{more}", stacklevel=2)
        try:
            # the type is how BoneConfig knows a checkpoint of PEFT's former Bone
            bone = {"peft_type": "BONE"} if self.is_former_bone else {}
            return cls(**{key: value for key, value in self.config.items() if key in known}, **bone)
        except LinchainError:
            raise
        except Exception as error:  # a class raises what it likes for values that nobody checked
            raise LinchainError(f"{self.folder / CONFIG_FILE}: {first_line(error)}") from error


def adapter_folder(path: Path | str) -> Path:
    """The adapter folder that `path` is, or that the run folder `path` has. LinchainError where there is none."""
    path = user_path(path)
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if not path.exists():
        raise LinchainError(f"adapter {path} does not exist")
    if not path.is_dir():
        raise LinchainError(f"adapter {path} is a file; name the folder with its {CONFIG_FILE} and {WEIGHTS_FILE}")
    if (path / "model" / "config.json").is_file():
        raise LinchainError(
            f"{path} is a run that trained all weights: {path / 'model'} is a plain Transformers model already"
        )
    if (path / "config.json").is_file():
        raise LinchainError(f"{path} holds a whole model, not an adapter: {CONFIG_FILE} is missing")
    raise LinchainError(f"{path} is no adapter folder and no finished run: {CONFIG_FILE} is missing")


def read_adapter(path: Path | str) -> AdapterFiles:
    """Read an adapter folder, or the adapter of a run folder: JSON and safetensors only, no base model.

    Raises LinchainError for a folder that is none, a type that converts to nothing, and unreadable files.
    """
    folder = adapter_folder(path)
    config = read_config(folder)
    return AdapterFiles(folder, config, read_tensors(folder, config))


def adapter_of(source: nn.Module | Path | str, adapter_name: str) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and tensors (copies on the CPU) of a live PeftModel's adapter or of an adapter folder's."""
    if isinstance(source, str | Path):
        files = read_adapter(source)
        return files.peft_config(), files.tensors
    from peft import get_peft_model_state_dict

    configs = getattr(source, "peft_config", None)
    if not isinstance(configs, dict):
        raise LinchainError(f"expected a PeftModel or an adapter folder, got {type(source).__name__}")
    if adapter_name not in configs:
        raise unknown_name("adapter", adapter_name, configs)
    state = get_peft_model_state_dict(source, adapter_name=adapter_name)
    return configs[adapter_name], {key: tensor.detach().cpu().clone() for key, tensor in state.items()}


def init_fields(cls: type) -> set[str]:
    """The names of a config class that its constructor takes and a checkpoint's JSON may hold, the type left out."""
    return {field.name for field in dataclasses.fields(cls) if field.init} - {"peft_type", "runtime_config"}


def adapted_modules(tensors: dict[str, Tensor]) -> list[str]:
    """The key prefixes (`base_model.model.….q_proj`) of the modules that have an A."""
    return [match["module"] for key in tensors if (match := _A_KEY.match(key))]


def factor_keys(module: str, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """The keys of A and B of a module: those of an embedding have names of their own."""
    if f"{module}.lora_embedding_A" in tensors:
        return f"{module}.lora_embedding_A", f"{module}.lora_embedding_B"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def write_adapter(config: PeftConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT does."""
    from safetensors.torch import save_file

    config.save_pretrained(str(folder))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS_FILE, {"format": "pt"})
