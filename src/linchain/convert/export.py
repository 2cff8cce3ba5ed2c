"""`linchain export`: convert an adapter, write it beside its destination, verify it there, then put it in place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from linchain.convert import verify
from linchain.convert.adapter import CONFIG_FILE, AdapterFiles, read_adapter, write_adapter
from linchain.convert.base import BaseModel, attach_fork, load_checkpoint
from linchain.convert.conversion import Converted, convert
from linchain.convert.fork import Fork, read_fork
from linchain.convert.forms import NAMES, TARGETS, check_target
from linchain.convert.lora_to_linchain import add_identity_chains
from linchain.convert.merge import config_with_biases, merged_model
from linchain.convert.readme import adapter_readme
from linchain.convert.servers import server_hints
from linchain.convert.svd import Approximation
from linchain.errors import LinchainError, first_line, unknown_name
from linchain.evaluation.models import LABELS_FILE, load_tokenizer, model_path
from linchain.evaluation.quantization import QUANTIZATION_FILE
from linchain.files import PART, check_writable, folder_lock, put_in_place, refused_by_disk
from linchain.methods.attach import attach
from linchain.methods.untrusted import named_base
from linchain.paths import user_path
from linchain.tasks.encoding import pad_token_id

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_CHAIN_LENGTH = 3


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the adapter that it was made from.

    Attributes:
        source: what was read.
        out, description: where it lies, and what it is.
        comparison: of the logits before and after.
        approximation: how far the update is from the adapter's, for what is not exact; then nothing is asked of the logits.
        lost: how far a model that was merged into dequantised weights is from the adapter on its quantised base.
        hints: what servers of LoRA adapters need for it, or why they cannot take it; see `server_hints`.
    """

    source: str
    out: Path
    description: str
    comparison: verify.Comparison
    approximation: Approximation | None = None
    lost: verify.Lost | None = None
    hints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Source:
    """The adapter to export: as it was trained (a fork's with its mixers), and as PEFT knows it."""

    files: AdapterFiles
    config: Any
    tensors: dict[str, Tensor]
    fork: Fork | None = None

    def __str__(self) -> str:
        former = ", saved by PEFT's former Bone" if self.files.is_former_bone else ""
        return f"{NAMES[self.files.kind]} adapter{former} in {self.files.folder}"

    @property
    def output_biases(self) -> dict[str, Tensor]:
        """What a fork's mixer biases add to the outputs of its modules; empty where there are none."""
        return self.fork.output_biases() if self.fork is not None and self.fork.has_biases else {}


def export(
    adapter: Path | str,
    out: Path | str,
    to: str,
    model: str | None = None,
    *,
    overwrite: bool = False,
    dtype: str | None = None,
    text: Path | None = None,
    chain_length: int | None = None,
    mixer_biases: bool = False,
    svd_rank: int | None = None,
) -> Export:
    """Write the adapter `adapter` in another form into the folder `out`, and check that it computes the same.

    Args:
        adapter: An adapter folder (LinChain, LoRA, Bone, MiSS, or of the authors' fork) or a run folder.
        out: The folder to write. It is there only when the check has passed.
        to: "lora", a plain PEFT LoRA adapter; "merged", a plain Transformers checkpoint; "linchain", a LinChain
            adapter, made from a LoRA or from a fork's checkpoint; "bone" and "miss", between PEFT's MiSS and our Bone.
            `linchain.convert.forms` has the table.
        model: The base model, instead of the one that the adapter names.
        overwrite: Replace an earlier export in `out`.
        dtype: Dtype of what is written: float32, bfloat16 or float16. See `fold_to_lora` and `merged_model`.
        text: A file whose lines are compared on, instead of sentences of ours.
        chain_length: Number of identity matrices that a LoRA gets with `to="linchain"`; 3 by default.
        mixer_biases: Keep the mixer biases of a fork's checkpoint, as biases of the merged model's layers.
        svd_rank: With `to="lora"`, the rank of the LoRA that comes closest to an adapter that no LoRA equals (Bone, MiSS
            bat). What is written is then another model, and how far it is from the adapter is measured, not checked.

    Raises:
        LinchainError: For whatever cannot be done as asked, and where the logits differ by more than the tolerance.
    """
    import torch

    out = user_path(out)
    if to not in TARGETS:
        raise unknown_name("--to", to, TARGETS)
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("--dtype", dtype, DTYPES)
    source = _read_source(adapter, to, chain_length, mixer_biases, svd_rank)
    # a merge and Bone's update need the very weights that the adapter was trained over
    base = _base_model(source, model, dense=to == "merged" or svd_rank is not None)
    _check_out(out, overwrite, [source.files.folder, Path(model_path(base.name))])
    if to == "merged":
        config_with_biases(base, list(source.output_biases))
    if to == "linchain" and source.fork is None:
        source = _with_chain(source, chain_length)
    tokenizer = _tokenizer(source.files.folder, base.name)
    batch = verify.make_batch(tokenizer, base.config, text)
    written_dtype = getattr(torch, dtype) if dtype else None
    adapted = _adapted(source, base.load(_compute_dtype(base)))
    before, plain = _reference(adapted, batch)
    approximation = None
    hints: list[str] = []
    with _staged(out) as part:
        if to == "merged":
            del adapted  # it is loaded once more: two at a time would need twice the memory
            description, rounded = _write_merged(source, base, part, written_dtype, tokenizer)
        else:
            tensors = source.tensors
            made = convert(source.files.kind, to, source.config, tensors, adapted, written_dtype, svd_rank)
            del adapted
            _write_adapter(source, made, base, part)
            description, approximation = made.description, made.approximation
            lora: Any = made.config
            hints = server_hints(lora, made.tensors) if to == "lora" else []
            rounded = written_dtype or (torch.bfloat16 if base.is_quantized else torch.float32)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(part))
        after = _written(to, base, part, batch)
        comparison = verify.compare(before, after, plain, rounded, batch)
        if not (comparison.passed if approximation is None else comparison.is_finite):
            raise LinchainError(
                f"the export is not what the adapter computes, and was not written: {comparison}{comparison.advice}"
            )
        lost = None
        if to == "merged" and base.trained_over is not None:
            as_trained = verify.logits(_adapted(source, base.load_as_trained()), batch)
            lost = verify.lost(as_trained, after, base.trained_over)
    return Export(str(source), out, description, comparison, approximation, lost, tuple(hints))


def _read_source(
    adapter: Path | str, to: str, chain_length: int | None, mixer_biases: bool, svd_rank: int | None
) -> _Source:
    files = read_adapter(adapter)
    check_target(files.folder, files.kind, to, svd_rank)
    if chain_length is not None and not (to == "linchain" and files.kind == "lora"):
        raise LinchainError("--chain-length is for a LoRA adapter and --to linchain only")
    if mixer_biases and files.kind != "fork":
        raise LinchainError(f"--mixer-biases: {files.folder} is no checkpoint of the authors' fork, it has no mixers")
    if files.kind == "fork":
        fork = read_fork(files)
        _check_biases(fork, files.folder, to, mixer_biases)
        config, tensors = fork.linchain()
        return _Source(files, config, tensors, fork)
    return _Source(files, files.peft_config(), files.tensors)


def _check_biases(fork: Fork, folder: Path, to: str, mixer_biases: bool) -> None:
    if not fork.has_biases:
        return
    if to != "merged":
        raise LinchainError(
            f"{folder} has mixer biases, for which a {to} adapter has no place: without them it is another function. "
            "They can only be kept in a merged model: --to merged --mixer-biases"
        )
    if not mixer_biases:
        raise LinchainError(
            f"{folder} has mixer biases. In a merged model they become biases of the layers (which may switch on "
            "biases in its configuration): say so with --mixer-biases"
        )


def _with_chain(source: _Source, chain_length: int | None) -> _Source:
    length = DEFAULT_CHAIN_LENGTH if chain_length is None else chain_length
    # the LoRA itself stays what the LinChain adapter is compared with
    config, tensors = add_identity_chains(source.config, source.tensors, length)
    return dataclasses.replace(source, config=config, tensors=tensors)


def _base_model(source: _Source, model: str | None, dense: bool) -> BaseModel:
    name = model or named_base(source.files.folder, source.files.config)
    try:
        return BaseModel(name, source.config, source.tensors, source.files.folder, dense)
    except LinchainError as error:
        if model:
            raise
        raise LinchainError(f"{error} (named by the adapter; --model names another place)") from error


def _tokenizer(folder: Path, base: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the adapter, else the base model's; None where neither has one."""
    beside = (folder / "tokenizer_config.json").is_file()
    try:
        tokenizer = load_tokenizer(str(folder) if beside else base)
    except LinchainError:
        if beside:
            raise
        return None
    # for some architectures transformers makes an empty tokenizer where there are no files of one
    return tokenizer if tokenizer.tokenize(verify.SENTENCES[0]) else None


def _adapted(source: _Source, model: PreTrainedModel) -> PeftModel:
    """A copy of the base model with the adapter as it was trained."""
    if source.fork is not None:
        return attach_fork(model, source.fork)
    return attach(model, source.files.peft_config(), source.files.tensors)


def _reference(adapted: PeftModel, batch: verify.Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Logits with the adapter, and of the base model alone."""
    with adapted.disable_adapter():
        plain = verify.logits(adapted, batch)
    return verify.logits(adapted, batch), plain


def _compute_dtype(base: BaseModel) -> Any:
    """float32, but what a quantised model was made for."""
    import torch

    return "auto" if base.is_quantized else torch.float32


def _write_adapter(source: _Source, made: Converted, base: BaseModel, part: Path) -> None:
    import linchain

    config = made.config
    config.inference_mode = True
    config.base_model_name_or_path = model_path(base.name)
    write_adapter(config, made.tensors, part)
    for name in (LABELS_FILE, QUANTIZATION_FILE):
        if (source.files.folder / name).is_file():
            shutil.copy(source.files.folder / name, part)
    auto = base.model_class().__name__
    (part / "README.md").write_text(adapter_readme(made, auto, linchain.__version__), encoding="utf-8")


def _write_merged(
    source: _Source, base: BaseModel, part: Path, dtype: torch.dtype | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[str, torch.dtype]:
    merged = merged_model(base, source.config, source.tensors, dtype, source.output_biases)
    if source.config.task_type == "SEQ_CLS" and tokenizer is not None and merged.config.pad_token_id is None:
        merged.config.pad_token_id = pad_token_id(tokenizer)  # a decoder finds the last token of a padded text by it
    try:
        merged.save_pretrained(str(part))
    except ValueError as error:  # transformers does not save a generation configuration that contradicts itself
        raise LinchainError(f"the merged model cannot be saved: {error}") from error
    return f"merged {type(merged).__name__} in {str(merged.dtype).removeprefix('torch.')}", merged.dtype


def _written(to: str, base: BaseModel, part: Path, batch: verify.Batch) -> list[Tensor]:
    """Logits of what lies in `part`, loaded as anyone would load it."""
    import torch
    from peft import PeftModel

    if to == "merged":
        model = load_checkpoint(base.model_class(), str(part), "the merged model", torch.float32)
        return verify.logits(model, batch)
    try:
        adapted = PeftModel.from_pretrained(base.load(_compute_dtype(base)), str(part))
    except LinchainError:
        raise
    except (TypeError, ValueError) as error:  # layers that we adapt and PEFT's method of that name does not
        raise LinchainError(f"--to {to}: PEFT does not load it on {base.name!r}: {first_line(error)}") from error
    return verify.logits(adapted.eval(), batch)


def _check_out(out: Path, overwrite: bool, inputs: list[Path]) -> None:
    check_writable(out)
    if any(path.exists() and path.resolve().is_relative_to(out.resolve()) for path in inputs):
        raise LinchainError(f"output folder {out} holds what is to be exported; choose another one")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise LinchainError(f"output folder {out} is not empty; choose another one, or --overwrite it")
    if not (out / CONFIG_FILE).is_file() and not (out / "config.json").is_file():
        raise LinchainError(f"output folder {out} holds neither an adapter nor a model, and is not overwritten")


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end. After an error it is gone, and `out` as it was.

    What a kill has left beside `out` goes with the next export to it; an earlier `out` is there until the new one is whole.
    """
    whole = out.absolute()
    scratch = whole.with_name(f".{whole.name}{PART}")
    with folder_lock(scratch):
        try:
            yield _new_part(scratch, whole)
            _replace(scratch, whole)
        except (OSError, SafetensorError) as error:
            if not refused_by_disk(error):
                raise
            raise LinchainError(f"output folder {out} cannot be written: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _new_part(scratch: Path, out: Path) -> Path:
    """An empty folder in `scratch`, after putting back what a kill between the two renames of `_replace` left there."""
    part, old = scratch / "new", scratch / "old"
    if old.exists() and not out.exists():
        old.rename(out)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir()
    return part


def _replace(scratch: Path, out: Path) -> None:
    part = scratch / "new"
    for weights in part.glob("*.safetensors"):
        # safetensors makes its files readable for their owner alone
        shutil.copymode(next(part.glob("*.json")), weights)
    if out.exists():
        out.rename(scratch / "old")
    put_in_place(part, out)
