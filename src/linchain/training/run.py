"""A run from its configuration to its folder: check, prepare, report, evaluate, train, evaluate, write the result."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from linchain.errors import LinchainError
from linchain.evaluation.models import LABELS_FILE, model_path
from linchain.evaluation.predict import EvaluationData
from linchain.evaluation.scores import Score, score
from linchain.training.config import RunConfig
from linchain.training.evaluate import predicted
from linchain.training.load_config import differences, dump_config, load_config
from linchain.training.prepare import PreparedData, prepare_data
from linchain.training.run_folder import (
    RunFolder,
    checkpoint_step,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)


class RunInterrupted(Exception):
    """Ctrl-C or SIGTERM ended the training; the folder holds a checkpoint of its last step."""


@dataclass(frozen=True)
class Start:
    """How a run starts: on a folder that holds an interrupted one (`resume`) or a finished one (`overwrite`)."""

    resume: bool = False
    overwrite: bool = False


def train(config: RunConfig, start: Start = Start(), console: Console | None = None) -> dict[str, Any]:
    """Runs `config` to the end and returns the content of its result.json.

    A run that was killed and is started again with `resume` ends in the same adapter as an undisturbed one: data order,
    dropout and optimizer continue from the last checkpoint.

    Raises LinchainError before any training for whatever is wrong with configuration, data, model or folder, and
    RunInterrupted after Ctrl-C.
    """
    console = console or Console(quiet=True)
    folder = check_folder(config, start)
    data = prepare_data(config)
    return run_prepared(config, start, folder, data, load_and_report(config, data, console), console)


def check_folder(config: RunConfig, start: Start) -> RunFolder:
    """The run's folder; LinchainError where `start` may not use it, or a resumed run was configured otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LinchainError("linchain train runs in one process; start it without torchrun or accelerate launch")
    folder = RunFolder(config.output)
    folder.check(start.resume, start.overwrite)
    if start.resume:
        changed = differences(load_config(folder.config), config)
        if changed:
            raise LinchainError(
                f"--resume: the configuration differs from that of the run in {folder.path}: {'; '.join(changed)}"
            )
    return folder


def load_and_report(config: RunConfig, data: PreparedData, console: Console) -> Any:
    """The model with its adapter, after showing what will be trained (all that `--dry-run` does)."""
    from linchain.training.adapt import adapted_model
    from linchain.training.display import report

    model = adapted_model(config, data)
    if not console.quiet:  # the memory estimate traces a whole step
        console.print(report(config, data, model))
    return model


def run_prepared(
    config: RunConfig, start: Start, folder: RunFolder, data: PreparedData, model: Any, console: Console
) -> dict[str, Any]:
    """The part of `train` that writes: from the empty or interrupted folder to result.json."""
    from linchain.convert.moved_base import start_of
    from linchain.training.display import paths, score_table
    from linchain.training.trainer import trainer_arguments

    arguments = trainer_arguments(config, folder, data.validation is not None)
    with folder.in_use():
        folder.check(start.resume, start.overwrite)
        if start.overwrite:
            folder.clear()
        start_tensors = start_of(model)
        _write_beginnings(config, folder, data, start_tensors)
        began = time.perf_counter()
        trainer, callbacks = _trainer(arguments, config, folder, data, model, console)
        scores: dict[str, list[Score]] = {}
        if data.test and config.evaluation.baseline:
            scores["before"] = _evaluate(config, folder, data.test, "before", trainer, console)
        if checkpoint := folder.last_checkpoint():
            console.print(f"resuming from step {checkpoint_step(checkpoint)}")
        resumed_from = _fit(config, folder, trainer, callbacks)
        _save_trained(folder, data, trainer.model, start_tensors)
        if data.scored_validation:
            scores["validation"] = _evaluate(config, folder, data.scored_validation, "validation", trainer, console)
        if data.test:
            scores["after"] = _evaluate(config, folder, data.test, "after", trainer, console)
        _plot(folder)
        result = _result(config, data, trainer, scores) | {
            "seconds": round(time.perf_counter() - began, 1),
            "resumed_from_step": resumed_from,
        }
        write_json(folder.result, result)
    if validation := scores.get("validation"):
        console.print(score_table("validation data", {"after": validation}))
    if test := {stage: found for stage, found in scores.items() if stage != "validation"}:
        console.print(score_table("test data before and after training" if len(test) > 1 else "test data", test))
    console.print(paths(folder, config.method.name), markup=False, highlight=False, soft_wrap=True)
    return result


def _write_beginnings(config: RunConfig, folder: RunFolder, data: PreparedData, start: dict[str, Any] | None) -> None:
    """Configuration and environment of a new run; for a resumed one, refuse data or a model that have changed.

    So is a `start` that was taken out of the base weights: computed anew, it must be the one that the run began with.
    """
    from linchain.training.environment import describe_environment, hash_tensors

    now = describe_environment(model_path(config.model.name), data.records)
    now["overlap"] = [asdict(one) for one in data.overlaps]
    now["validation_overlap"] = [asdict(one) for one in data.validation_overlaps]
    if start is not None:
        now["start"] = hash_tensors(start)
    if folder.state == "interrupted" and folder.environment.is_file():
        then = read_json(folder.environment)
        for part in ("model", "data", "start"):
            if then.get(part) != now.get(part):
                raise LinchainError(f"--resume: the {part} changed since the run in {folder.path} began")
        return
    write_text(folder.config, dump_config(config))
    write_json(folder.environment, now)


def _trainer(
    arguments: Any, config: RunConfig, folder: RunFolder, data: PreparedData, model: Any, console: Console
) -> tuple[Any, tuple[Any, Any]]:
    from linchain.training.callbacks import MetricsFile, ProgressBar, StopOnSignal
    from linchain.training.trainer import RunTrainer

    bar, stop = ProgressBar(console), StopOnSignal()
    trainer = RunTrainer(arguments, config.method, data, model, [MetricsFile(folder.metrics), bar, stop])
    if every := config.training.diagnostics_steps:
        from linchain.training.diagnose import Diagnostics

        trainer.add_callback(Diagnostics(folder.diagnostics, every, model))
    return trainer, (bar, stop)


def _fit(config: RunConfig, folder: RunFolder, trainer: Any, callbacks: tuple[Any, Any]) -> int | None:
    """Trains to the last step; returns the step that it continued from, if it did."""
    from linchain.training.display import steps_of

    bar, stop = callbacks
    checkpoint = folder.last_checkpoint()
    total = steps_of(config.training, len(trainer.train_dataset))
    if checkpoint and checkpoint_step(checkpoint) >= total:
        # the kill came after the last step; transformers would train one more
        _load_final(config, folder, checkpoint, trainer.model)
        trainer.state.global_step = checkpoint_step(checkpoint)
        return checkpoint_step(checkpoint)
    try:
        with stop:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    if stop.stopped and trainer.state.global_step < total:
        raise RunInterrupted(f"stopped at step {trainer.state.global_step} of {total}")
    return checkpoint_step(checkpoint) if checkpoint else None


def _load_final(config: RunConfig, folder: RunFolder, checkpoint: Path, model: Any) -> None:
    """The weights that the finished training chose: those of the best checkpoint, else of the last."""
    import peft

    if config.training.keep_best:
        best = read_json(checkpoint / "trainer_state.json")["best_model_checkpoint"]
        checkpoint = folder.checkpoints / Path(best).name
    if isinstance(model, peft.PeftModel):
        peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(checkpoint), device="cpu"))
    else:
        trained = type(model).from_pretrained(str(checkpoint), dtype=model.dtype, use_safetensors=True)
        model.load_state_dict(trained.state_dict())


def _save_trained(folder: RunFolder, data: PreparedData, model: Any, start: dict[str, Any] | None) -> None:
    """Writes the adapter, or the model where it is trained in full, so that the folder is there whole or not at all."""
    import peft

    adapted = isinstance(model, peft.PeftModel)
    whole = folder.adapter if adapted else folder.model
    part = whole.with_name(f"{whole.name}.part")
    for old in (part, whole):
        shutil.rmtree(old, ignore_errors=True)
    model.save_pretrained(str(part))
    if start is not None:
        _save_for_whole_base(model, start, part)
    data.tokenizer.save_pretrained(str(part))
    if adapted and data.labels is not None:  # a model has them in its config.json
        write_json(part / LABELS_FILE, data.labels.names)
    part.rename(whole)


def _save_for_whole_base(model: Any, start: dict[str, Any], part: Path) -> None:
    """Puts in the place of an adapter that took `start` out of the base weights the one that fits them as they were."""
    from linchain.convert.adapter import adapter_of, write_adapter
    from linchain.convert.moved_base import for_whole_base

    config, tensors = for_whole_base(*adapter_of(model, model.active_adapter), start)
    config.inference_mode = True
    write_adapter(config, tensors, part)


def _evaluate(
    config: RunConfig, folder: RunFolder, test: EvaluationData, stage: str, trainer: Any, console: Console
) -> list[Score]:
    """Scores of a split at a stage, from the predictions on disk where an interrupted run has already made them."""
    file = folder.predictions / f"{stage}.jsonl"
    if file.is_file():
        return score(test.metric, read_jsonl(file))
    title = "evaluating on validation data" if stage == "validation" else f"evaluating {stage} training"
    rows = predicted(config, trainer.model, trainer.processing_class, test, title, console)
    write_jsonl(file, rows)
    return score(test.metric, rows)


def _plot(folder: RunFolder) -> None:
    from linchain.training.plot import plot_losses

    if folder.metrics.is_file():
        plot_losses(read_jsonl(folder.metrics), folder.plot)


def _result(config: RunConfig, data: PreparedData, trainer: Any, scores: dict[str, list[Score]]) -> dict[str, Any]:
    from linchain.diagnostics.parameters import parameter_counts

    trainable, total = parameter_counts(trainer.model)
    return {
        "model": config.model.name,
        "method": config.method.model_dump(mode="json"),
        "task": config.task,
        "format": data.format.name,
        "parameters": {"trainable": trainable, "total": total},
        "steps": trainer.state.global_step,
        "metric": next((one.metric for one in (data.test, data.scored_validation) if one), None),
        "scores": {stage: [asdict(one) for one in found] for stage, found in scores.items()},
        "cost": trainer.cost.summary(),
    }
