"""The training of a run: from its last good checkpoint to its last step, or to one line that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
from rich.console import Console

from linchain import processes
from linchain.errors import DivergedError, LinchainError, RunInterrupted, is_out_of_memory
from linchain.training.callbacks import ProgressBar, StopOnSignal
from linchain.training.checkpoints import checkpoint_step, damage, trainer_state
from linchain.training.config import RunConfig
from linchain.training.display import steps_of
from linchain.training.distributed import is_sharded, load_into_shards
from linchain.training.out_of_memory import while_training
from linchain.training.prepare import PreparedData
from linchain.training.run_folder import RunFolder
from linchain.training.trainer import RunTrainer


def fit(config: RunConfig, folder: RunFolder, data: PreparedData, trainer: RunTrainer, console: Console) -> int | None:
    """Trains to the last step and leaves the chosen weights in the model; returns the step it continued from, if it did.

    Raises RunInterrupted after Ctrl-C and SIGTERM, DivergedError where the loss is lost, LinchainError where the memory or
    the disk did not suffice: each when what was trained so far is safe in a checkpoint, or with where the last one lies.
    """
    bar, stop = ProgressBar(console), StopOnSignal()
    trainer.add_callback(bar)
    trainer.add_callback(stop)
    total = steps_of(config.training, len(data.train), processes.count())
    checkpoint = _where_to_continue(folder, console)
    done = checkpoint_step(checkpoint) if checkpoint else 0
    if checkpoint and done >= total:
        # the kill came after the last step; transformers would train one more
        state = trainer_state(checkpoint)
        trainer.state.global_step, trainer.state.best_global_step = done, state["best_global_step"]
        _load_weights(checkpoint, trainer.model)
    else:
        try:
            with stop, _explained(config, folder, data, trainer):
                trainer.continue_from(checkpoint) if checkpoint else trainer.train()
        finally:
            bar.close()
        if stop.stopped and trainer.state.global_step < total:
            raise RunInterrupted(f"stopped at step {trainer.state.global_step} of {total}", stop.stopped)
    best = trainer.state.best_global_step
    if config.training.keep_best and best is not None:  # not all versions of transformers evaluate the last step
        _load_weights(folder.checkpoints.at(best), trainer.model)
    return done or None


def _where_to_continue(folder: RunFolder, console: Console) -> Path | None:
    """The newest whole checkpoint, after saying what is wrong with newer ones."""
    checkpoint, damaged = processes.exchange(folder.checkpoints.search() if processes.is_main() else (None, {}))[0]
    for path, wrong in damaged.items():
        console.print(f"{path} is damaged ({wrong}) and passed over", style="yellow", markup=False, soft_wrap=True)
    if checkpoint or damaged:
        console.print(f"resuming from step {checkpoint_step(checkpoint) if checkpoint else 0}")
    return checkpoint


@contextmanager
def _explained(config: RunConfig, folder: RunFolder, data: PreparedData, trainer: RunTrainer) -> Iterator[None]:
    """Says of a training that broke off what can be done about it, and what is left of it."""
    try:
        yield
    except DivergedError as error:
        last = folder.checkpoints.last()
        left = f"the last good checkpoint is {last}" if last else "there is no checkpoint from before"
        raise DivergedError(
            f"{error}; {left}. Try a lower training.learning_rate than {config.training.learning_rate:g}, or "
            "training.precision bfloat16 or float32"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise while_training(config, trainer.model, data.train, trainer.state.global_step + 1) from error


def _load_weights(checkpoint: Path, model: Any) -> None:
    """The weights of `checkpoint` into `model`. LinchainError where they are not those that were written."""

    if wrong := damage(checkpoint):
        raise LinchainError(f"checkpoint {checkpoint} is damaged ({wrong}); --overwrite starts the run again")
    if is_sharded(model):
        load_into_shards(model, checkpoint)
    elif isinstance(model, peft.PeftModel):
        peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(checkpoint), device="cpu"))
    else:
        trained = type(model).from_pretrained(str(checkpoint), dtype=model.dtype, use_safetensors=True)
        model.load_state_dict(trained.state_dict())
