"""Training on several processes, by the engines that Accelerate starts: DDP, FSDP2, DeepSpeed ZeRO.

transformers.Trainer does their work. Here is what a run needs beside it: what is refused before any work, how a step is divided
among processes, and whole weights and optimizer state out of sharded ones.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers.trainer import CONFIG_NAME, OPTIMIZER_NAME, SCHEDULER_NAME

from linchain import processes
from linchain.errors import LinchainError
from linchain.evaluation.models import model_path
from linchain.files import sha256
from linchain.training.config import RunConfig
from linchain.training.environment import commit_of, hash_records, hash_tensors, model_files
from linchain.training.prepare import PreparedData

FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # set by `accelerate launch`
WHOLE = StateDictOptions(full_state_dict=True)
ONE_PROCESS = "the state of one process"
ALONE = {"processes": 1, "checkpoints": ONE_PROCESS}  # the layout of a run on one process


def check_engine(config: RunConfig) -> None:
    """LinchainError for an engine, or a choice within one, under which the run would fail later or be wrong."""
    if _is_on(FSDP):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise LinchainError("FSDP version 1 is not supported; set fsdp_version: 2 (recipes/accelerate/fsdp2.yaml)")
        if _is_on("FSDP_CPU_RAM_EFFICIENT_LOADING"):
            raise LinchainError(
                "fsdp_cpu_ram_efficient_loading: true leaves all processes but the first without the base weights, which a "
                "method may read for its start; set it to false"
            )
    if config.training.keep_best and uses_deepspeed():
        raise LinchainError(
            "training.keep_best: true brings a checkpoint's weights back at the end, which this engine does not do; leave it "
            "out, or train under DDP or FSDP2"
        )
    if config.method.name == "lora-fa" and (uses_deepspeed() or _is_on(FSDP)):
        raise LinchainError(
            "method lora-fa: its optimizer reads A and B whole, which this engine divides; train it under DDP"
        )
    divided = processes.count() > 1 or _is_on(FSDP) or uses_deepspeed()
    if divided and config.training.diagnostics_steps:
        raise LinchainError(
            f"training.diagnostics_steps: {config.training.diagnostics_steps} measures whole weights and gradients, which a "
            "divided run has nowhere; leave it out, or train in one process"
        )
    if uses_deepspeed() and processes.count() > 1 and PartialState().distributed_type != DistributedType.DEEPSPEED:
        raise LinchainError(
            "Accelerate starts DeepSpeed on accelerators alone, and this machine has none that it knows; train with "
            "recipes/accelerate/ddp.yaml or fsdp2.yaml"
        )


def step_size(config: RunConfig, layout: dict[str, Any]) -> int:
    """Examples in an optimizer step of a run with this layout."""
    training = config.training
    return layout["processes"] * training.batch_size * training.gradient_accumulation_steps


def layout() -> dict[str, Any]:
    """For environment.json: how many processes train the run, and what its checkpoints hold."""
    return {"processes": processes.count(), "checkpoints": _in_checkpoints()}


def layout_changes(then: dict[str, Any], before: RunConfig, config: RunConfig) -> list[str]:
    """Why the run of `before`, with the layout `then`, cannot go on as it is started now; nothing where it can."""
    now, changes = layout(), []
    size, new_size = step_size(before, then), step_size(config, now)
    if size != new_size and then["processes"] != now["processes"]:
        changes.append(
            f"a step: {size} examples, on {then['processes']} processes, is now {new_size}, on {now['processes']} (change "
            "training.batch_size or training.gradient_accumulation_steps)"
        )
    if then["checkpoints"] != now["checkpoints"]:
        changes.append(f"checkpoints: {then['checkpoints']!r} is now {now['checkpoints']!r} (launch it as it was)")
    return changes


def inputs_of(config: RunConfig, data: PreparedData, start: dict[str, Tensor] | None) -> dict[str, Any]:
    """What this process has read, by the key that names it, in a form to compare; nothing where it is alone.

    `start` is what a method computed out of the base weights. FSDP2 alone would mix those of several processes: the other
    engines give all of them the first one's weights.
    """
    if processes.count() == 1:
        return {}
    folder = model_files(model_path(config.model.name))
    # not the hashes of the weights: every process would have to read them
    model: dict[str, Any] = {file.name: file.stat().st_size for file in folder.glob("*.safetensors")}
    model |= {CONFIG_NAME: sha256(folder / CONFIG_NAME), "commit": commit_of(folder)}
    read = {f"data.{split}": hash_records(records) for split, records in data.records.items()}
    made = {"method.name": hash_tensors(start)} if start is not None and _is_on(FSDP) else {}
    return {**read, "model.name": model, **made}


def check_same_inputs(inputs: list[dict[str, Any]]) -> None:
    """LinchainError where one of the processes, whose `inputs_of` these are, has something else than the first."""
    for rank, found in enumerate(inputs):
        for key, value in found.items():
            if value != inputs[0].get(key):
                raise LinchainError(
                    f"{key}: process {rank} has something else than process 0 has by that name, or computed from it; all "
                    "machines need the same files"
                )


def _in_checkpoints() -> str:
    """What a checkpoint holds as its engine writes it; another engine, or DeepSpeed on other processes, cannot read it."""
    if uses_deepspeed():
        return f"DeepSpeed's state of {processes.count()} processes"
    if _is_on(FSDP) and os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT") == "SHARDED_STATE_DICT":
        return "FSDP2's shards"
    return ONE_PROCESS


def uses_deepspeed() -> bool:
    """Whether `accelerate launch` was told to train with DeepSpeed."""
    return _is_on(DEEPSPEED)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


class EngineTrainer(transformers.Trainer):
    """The Trainer, with whole weights from every engine.

    Under FSDP2 every checkpoint also holds the adapter (or model) whole, and, with `fsdp_state_dict_type: FULL_STATE_DICT`,
    the optimizer's state in the file and form of a single process: such a run continues on any number of processes, with or
    without FSDP2.
    """

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if _is_on(FSDP) and state.distributed_type == DistributedType.MULTI_CPU:
            # Accelerate starts FSDP on accelerators alone: on a CPU it would train with DDP, and not say so
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:
            # Weights are gathered as they are, and autocast chooses the products' dtype, as everywhere else: cast to
            # bfloat16, an adapter would lose its small steps, and its gradients some of the processes' sum.
            state.fsdp_plugin.mixed_precision_policy = torch.distributed.fsdp.MixedPrecisionPolicy()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        return self.accelerator.autocast() if self.is_fsdp_enabled else super().autocast_smart_context_manager()

    def whole_state(self) -> dict[str, Tensor] | None:
        """What was trained, by the model's own names, in CPU memory of the main process; every process must call it.

        None where the model is whole in each process.
        """
        model: Any = self.model
        adapted = hasattr(model, "peft_config")
        if is_sharded(model):
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapted)
            state: Any = get_model_state_dict(model, options=options)
            return state
        engine: Any = self.deepspeed
        if engine is not None and engine.zero_optimization_partition_weights():
            return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=adapted)
        return None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.is_fsdp_enabled:
            state = self.whole_state()
            with self.one_writes():
                if self.args.should_save:  # not all versions of transformers ask
                    self._save(output_dir, state_dict=state)
        else:
            with self.one_writes():
                super().save_model(output_dir, _internal_call)

    def one_writes(self) -> AbstractContextManager[None]:
        """Around what one process writes while the others wait."""
        return processes.agreed()

    def meets_while_saving(self) -> bool:
        """Whether the engine makes processes wait for one another while they write a checkpoint."""
        return self.is_deepspeed_enabled or (self.is_fsdp_enabled and not self._gathers_state())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._gathers_state():
            super()._save_optimizer_and_scheduler(output_dir)
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, optimizer, scheduler = self._in_training()
        state = get_optimizer_state_dict(model, optimizer, options=options)
        with self.one_writes():
            if self.args.should_save:
                torch.save(_by_number(state), Path(output_dir, OPTIMIZER_NAME))
                torch.save(scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._gathers_state():
            load_into_shards(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._gathers_state():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint, OPTIMIZER_NAME), map_location="cpu", weights_only=True)
        model, optimizer, scheduler = self._in_training()
        names = _names(get_optimizer_state_dict(model, optimizer))
        set_optimizer_state_dict(model, optimizer, _by_name(state, names), options=WHOLE)
        scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))

    def _in_training(self) -> tuple[Any, Any, Any]:
        return self.model, self.optimizer, self.lr_scheduler

    def _gathers_state(self) -> bool:
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        return plugin is not None and "FULL" in str(plugin.state_dict_type)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has divided the parameters of `model`."""
    return isinstance(model, torch.distributed.fsdp.FSDPModule)


def load_into_shards(model: Any, folder: Path | str) -> None:
    """Gives the sharded parameters of `model` the values of the adapter, or model, in `folder`; every process must call it."""
    adapted = hasattr(model, "peft_config")
    if adapted:
        state: Any = _adapter_in(folder, model)
    else:
        whole: Any = next(
            kind for kind in type(model).__mro__ if not issubclass(kind, torch.distributed.fsdp.FSDPModule)
        )
        state = whole.from_pretrained(str(folder), dtype=model.dtype, use_safetensors=True).state_dict()
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, strict=not adapted))


def _adapter_in(folder: Path | str, model: Any) -> dict[str, Tensor]:
    """The adapter's tensors by the names of the model's parameters."""
    from peft import get_peft_model_state_dict, load_peft_weights

    loaded = load_peft_weights(str(folder), device="cpu")
    own = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True))
    # PEFT saves parameters under other names than the model's; it tells them by the tensors that it passes on
    names = {id(tensor): name for name, tensor in own.items()}
    saved = get_peft_model_state_dict(model, state_dict=own)
    return {names[id(tensor)]: loaded[name] for name, tensor in saved.items()}


def _names(state: dict[str, Any]) -> list[str]:
    return [name for group in state["param_groups"] for name in group["params"]]


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with its parameters counted, as torch's own has it, from one with their names."""
    numbers = {name: number for number, name in enumerate(_names(state))}
    return _renamed(state, numbers)


def _by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return _renamed(state, dict(enumerate(names)))


def _renamed(state: dict[str, Any], new: Any) -> dict[str, Any]:
    return {
        "state": {new[key]: values for key, values in state["state"].items()},
        "param_groups": [group | {"params": [new[key] for key in group["params"]]} for group in state["param_groups"]],
    }
