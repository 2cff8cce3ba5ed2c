"""Reads adapter folders as strangers hand them over: JSON and safetensors, each checked before anything is made from it.

Nothing here runs code that a folder names, and no number in it decides how much memory is taken before it was compared
with what the tensors hold. `linchain.methods.attach` compares the tensors with the base model, also before it allocates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from linchain.errors import LinchainError, first_line
from linchain.methods.options import problem
from linchain.tuners.linchain.config import DEFAULT_LENGTH, DEFAULT_RANK

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LARGEST_JSON = 2**24  # bytes
LONGEST_NAME = 1024  # letters of a model's name
# The types whose sizes are checked here. What others' configurations make PEFT read and allocate is not known.
TYPES = ("LINCHAIN", "LORA", "BONE", "MISS")
DEFAULT_BLOCK = 64  # the r of Bone and MiSS
DTYPES = ("F64", "F32", "BF16", "F16")
COUNTING = ("I64", "I32", "I16", "I8", "U8", "BOOL")  # of saved modules' buffers
# The options whose values mean the same for every type; the types themselves check the rest.
_CHECKED = (
    "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "fan_in_fan_out",
    "chain_length",
)  # fmt: skip
_NEVER_NULL = ("r", "lora_alpha")
_REFUSED = {
    "megatron_config": "PEFT would import the module that `megatron_core` names",
    "layer_replication": "it makes the base model as large as it likes",
}
_FACTOR_KEY = re.compile(r"\.(lora_|bone_|miss_)")
# an A, and what stands behind "lora_A" and "lora_B" both; the authors' fork may put the adapter's name there
_A_KEY = re.compile(r"(?P<module>.+)\.(?:lora_A(?P<name>(?:\.[^.]+)?\.weight)|lora_embedding_A)$")
_CHAIN_KEY = re.compile(r"(?P<module>.+)\.lora_(?:A|embedding_chain)\.chain(?:_(?P<index>\d+))?$")


class Stored(NamedTuple):
    """A tensor as the header of a safetensors file declares it: `dtype` in its words, such as "F32"."""

    shape: tuple[int, ...]
    dtype: str


def check_links(folder: Path) -> None:
    """Raise LinchainError for what `folder` holds that is no file and no folder, such as a pipe, whose reading never ends, and
    for a link that leads out of it, other than to the Hub cache's own files."""
    home = folder.resolve()
    cache = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    # the one folder within that anything is read from; others may hold what they like, such as a project's environment
    for entry in (*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")):
        name = shown(str(entry.relative_to(folder)))
        try:
            target = entry.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise LinchainError(f"adapter {folder}: {name} cannot be followed: {first_line(error)}") from error
        if entry.is_symlink() and not any(target.is_relative_to(inside) for inside in (home, *cache)):
            raise LinchainError(f"adapter {folder}: {name} is a link out of the folder, which is not followed")
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise LinchainError(f"adapter {folder}: {name} is no file")


def shown(key: str) -> str:
    """A stranger's name for something, such as a tensor's, for a message: of one line and of 200 letters at most."""
    return repr(key)[1:-1][:200]


def read_json(path: Path) -> Any:
    """The content of a JSON file of an adapter. LinchainError where it is no regular file or larger than LARGEST_JSON bytes,
    and where it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise LinchainError(f"{path} cannot be read: it is no file")
        if path.stat().st_size > LARGEST_JSON:
            raise LinchainError(f"{path} cannot be read: it is larger than {LARGEST_JSON:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except LinchainError:
        raise
    except (OSError, ValueError) as error:
        raise LinchainError(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise LinchainError(f"{path} cannot be read: it is nested too deeply") from error


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, with the values checked that a type's own class does not check.

    Raises LinchainError for links out of the folder, files that are no JSON objects, types other than TYPES, values of the
    wrong kind, a base model that is no name, and what would import or multiply modules.
    """
    check_links(folder)
    file = folder / CONFIG_FILE
    config = read_json(file)
    if not isinstance(config, dict):
        raise LinchainError(f"{file} cannot be read: it holds no object, but {config!r:.80}")
    if config.get("peft_type") not in TYPES:
        raise LinchainError(
            f"{folder} is an adapter of type {config.get('peft_type')!r:.80}. What is read: {', '.join(TYPES)}"
        )
    for name in _CHECKED:
        value = config.get(name)
        given = name in config if name in _NEVER_NULL else value is not None
        if given and (wrong := problem(name, value)):
            raise LinchainError(f"{file}: {wrong:.400}")
    for name, reason in _REFUSED.items():
        if config.get(name):
            raise LinchainError(f"{file}: {name} is not accepted: {reason}")
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str) or len(base) > LONGEST_NAME or not base.isprintable():
        raise LinchainError(f"{file}: base_model_name_or_path must be the name of a model, got {base!r:.80}")
    return config


def named_base(folder: Path, config: Mapping[str, Any]) -> str:
    """The base model that an adapter's configuration names. LinchainError where it names none, or a way to anywhere."""
    name = config.get("base_model_name_or_path")
    if not name:
        raise LinchainError(f"adapter {folder} does not say which model it was trained on; name it with --model")
    if ".." in re.split(r"[/\\]", name) or name.startswith("~"):
        raise LinchainError(
            f"adapter {folder}: base_model_name_or_path {name!r} leads up or home, and only you can know where to; "
            "name the base model with --model"
        )
    return name


def read_tensors(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of adapter_model.safetensors, on the CPU, once their shapes and dtypes were found to fit `config`.

    Raises LinchainError for a file that is missing, corrupt or larger than the memory, for tensors that do not fit, and for
    values that are not finite.
    """
    import psutil
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise LinchainError(f"adapter {folder} has no {WEIGHTS_FILE}{_pickled(folder)}")
    if file.stat().st_size > psutil.virtual_memory().total:
        raise LinchainError(f"{file} is larger than this machine's memory")
    try:
        with safe_open(file, "pt") as header:
            slices = {key: header.get_slice(key) for key in header.keys()}  # noqa: SIM118  no mapping
            stored = {key: Stored(tuple(one.get_shape()), one.get_dtype()) for key, one in slices.items()}
        check_stored(str(folder), config, stored)
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise LinchainError(f"{file} is corrupt or cut short: {first_line(error)}") from error
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise LinchainError(f"{file}: {shown(key)} holds values that are not finite")
    return tensors


def _pickled(folder: Path) -> str:
    """What to do about a checkpoint that is only there as a pickle, which is not read: it can run any code."""
    if not (folder / "adapter_model.bin").is_file():
        return " (weights are read from safetensors only)"
    return (
        ", only adapter_model.bin, which is a pickle and not read. If you trust it, convert it once: safetensors.torch."
        "save_file(torch.load('adapter_model.bin', map_location='cpu', weights_only=True), 'adapter_model.safetensors')"
    )


def check_stored(what: str, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    """Raise LinchainError where the tensors `stored` are not those of an adapter with the configuration `config`."""
    dtypes: dict[str, str] = {}  # of the factors that are multiplied with one another
    for key, tensor in stored.items():
        factor = _FACTOR_KEY.search(key)
        accepted = DTYPES if factor else (*DTYPES, *COUNTING)
        if tensor.dtype not in accepted:
            raise LinchainError(f"{what}: {shown(key)} has dtype {tensor.dtype}; expected one of {', '.join(accepted)}")
        if factor and 0 in tensor.shape:
            raise LinchainError(f"{what}: {shown(key)} is empty, its shape is {tensor.shape}")
        if factor and "magnitude" not in key and dtypes.setdefault(key[: factor.start()], tensor.dtype) != tensor.dtype:
            raise LinchainError(
                f"{what}: {shown(key)} has dtype {tensor.dtype}, other factors of its module have another"
            )
    if config["peft_type"] in ("BONE", "MISS"):
        _check_blocks(what, config, stored)
        return
    widths = _widths(what, config) if config["peft_type"] == "LINCHAIN" else []
    ranks = {config.get("r") or DEFAULT_RANK, *(config.get("rank_pattern") or {}).values(), *widths[:1], *widths[-1:]}
    _check_factors(what, config, stored, ranks, widths)
    if config["peft_type"] == "LINCHAIN":
        _check_chains(what, config, stored, ranks, widths)
    elif chain := next(filter(_CHAIN_KEY.match, stored), None):
        raise LinchainError(f"{what}: {shown(chain)} is of a chain, but the type is {config['peft_type']}")


def _check_blocks(what: str, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    r = config.get("r") or DEFAULT_BLOCK
    for key, tensor in stored.items():
        if key.endswith((".bone_block", ".miss_block")) and (r not in tensor.shape or len(tensor.shape) not in (2, 3)):
            raise LinchainError(f"{what}: {shown(key)} has shape {tensor.shape}, which holds no blocks of r = {r}")


def _check_factors(
    what: str, config: Mapping[str, Any], stored: Mapping[str, Stored], ranks: set[int], widths: list[int]
) -> None:
    """A is (rank, in, …) with one of the ranks that the configuration names, or (experts · rank, in); each A has a B."""
    stacked = bool(config.get("target_parameters"))
    for key, (shape, _) in stored.items():
        if not (match := _A_KEY.match(key)):
            continue
        if len(shape) < 2:
            raise LinchainError(f"{what}: {shown(key)} has shape {shape}; expected (r, in)")
        if not any(shape[0] % rank == 0 if stacked else shape[0] == rank for rank in ranks):
            raise LinchainError(f"{what}: {shown(key)} has shape {shape}, but the rank is {_listed(sorted(ranks))}")
        other = match["module"] + (".lora_embedding_B" if match["name"] is None else f".lora_B{match['name']}")
        if other not in stored:
            if match["name"] in (None, ".weight"):
                raise LinchainError(f"{what}: {shown(key)} is there without {shown(other)}")
            continue  # the fork's names, which `linchain.convert.fork` sorts
        # a tied output embedding is the transposed of the input's, from the last width to the first
        fitting = {widths[0], widths[-1]} if widths else {shape[0]}
        behind = stored[other].shape
        if len(shape) == 2 and not stacked and (len(behind) != 2 or behind[1] not in fitting):
            raise LinchainError(
                f"{what}: {shown(other)} has shape {behind}; expected (out, {_listed(sorted(fitting))})"
            )


def _check_chains(
    what: str, config: Mapping[str, Any], stored: Mapping[str, Stored], ranks: set[int], widths: list[int]
) -> None:
    """A chain is (r, n, r), or chain_0 … chain_{n-1} of the widths that the configuration names; experts come first."""
    length = DEFAULT_LENGTH if config.get("chain_length") is None else config["chain_length"]
    fronts = {match["module"]: tensor for key, tensor in stored.items() if (match := _A_KEY.match(key))}
    found: dict[str, int] = {}
    for key, (shape, _) in stored.items():
        if not (match := _CHAIN_KEY.match(key)):
            continue
        module, index = match["module"], match["index"]
        found[module] = found.get(module, 0) + 1
        rank = shape[-1] if shape else 0
        if index is None:
            fits = shape[-3:] == (rank, length, rank) and len(shape) - 3 in (0, 1) and rank in ranks
            fits = fits and module in fronts and fronts[module].shape[0] % rank == 0
        else:
            place = int(index) if len(index) < 5 else len(widths)  # Python reads no numbers of thousands of digits
            between = widths[place : place + 2]
            fits = len(between) == 2 and shape[-2:] == (between[1], between[0]) and len(shape) - 2 in (0, 1)
        if not fits or module not in fronts:
            raise LinchainError(
                f"{what}: {shown(key)} has shape {shape}, which does not fit chain_length {length}, "
                f"chain_widths {_listed(widths)} and r {config.get('r')}"
            )
    if length and not found:
        raise LinchainError(f"{what}: the configuration promises a chain of {length} matrices, but no tensor holds one")
    parts = len(widths) - 1 if len(set(widths)) > 1 else 1
    for module, count in found.items():
        if count != parts:
            raise LinchainError(f"{what}: the chain of {shown(module)} has {count} tensors; expected {parts}")


def _widths(what: str, config: Mapping[str, Any]) -> list[int]:
    """chain_widths; empty where there are none."""
    widths = config.get("chain_widths") or []
    if not isinstance(widths, list) or not all(type(width) is int and width > 0 for width in widths):
        raise LinchainError(f"{what}: chain_widths must be a list of positive integers, got {widths!r:.80}")
    return widths


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, list(numbers)[:10])) or "none"
