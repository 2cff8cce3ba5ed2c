"""A run from its configuration to its folder: check, prepare, report, evaluate, train, evaluate, write the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors import SafetensorError

from linchain.errors import LinchainError, is_out_of_memory
from linchain.evaluation.models import LABELS_FILE, model_path
from linchain.evaluation.predict import EvaluationData
from linchain.evaluation.quantization import QUANTIZATION_FILE
from linchain.evaluation.scores import Score, score
from linchain.files import (
    PART,
    put_in_place,
    read_json,
    read_jsonl,
    refused_by_disk,
    remove,
    write_json,
    write_jsonl,
    write_text,
)
from linchain.processes import agreed, exchange, is_main, joined
from linchain.training.config import RunConfig
from linchain.training.evaluate import predicted
from linchain.training.load_config import differences, dump_config, load_config
from linchain.training.out_of_memory import while_evaluating
from linchain.training.prepare import PreparedData, prepare_data
from linchain.training.run_folder import RunFolder

LAYOUT = "layout"  # in environment.json: how the run is divided among processes


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
    with joined():
        with agreed():
            folder = check_folder(config, start)
            data = prepare_data(config)
            model = load_and_report(config, data, console)
        return run_prepared(config, start, folder, data, model, console)


def check_folder(config: RunConfig, start: Start) -> RunFolder:
    """The run's folder; LinchainError where `start` may not use it, or a resumed run was configured otherwise."""
    from linchain.training.distributed import ALONE, check_engine, layout, layout_changes

    check_engine(config)
    folder = RunFolder(config.output)
    if not is_main():
        return folder
    folder.check(start.resume, start.overwrite)
    if start.resume:
        before = load_config(folder.config)
        then = read_json(folder.environment).get(LAYOUT, ALONE) if folder.environment.is_file() else layout()
        changed = differences(before, _with_memory_of(before, then, config)) + layout_changes(then, before, config)
        if changed:
            raise LinchainError(
                f"--resume: the configuration differs from that of the run in {folder.path}: {'; '.join(changed)}"
            )
    return folder


def _with_memory_of(before: RunConfig, then: dict[str, Any], config: RunConfig) -> RunConfig:
    """`config` with what decides `before`'s use of memory: a run that ran out of it may continue with the same steps taken
    in smaller batches, or (`then` is its layout) on another number of processes."""
    from linchain.training.distributed import layout, step_size

    was, training = before.training, config.training
    kept: dict[str, Any] = {"gradient_checkpointing": was.gradient_checkpointing}
    if step_size(config, layout()) == step_size(before, then):
        kept |= {
            "batch_size": was.batch_size,
            "gradient_accumulation_steps": was.gradient_accumulation_steps,
        }
    evaluation = config.evaluation.model_copy(update={"batch_size": before.evaluation.batch_size})
    return config.model_copy(update={"training": training.model_copy(update=kept), "evaluation": evaluation})


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
    from linchain.diagnostics.parameters import parameter_counts
    from linchain.training.display import paths, score_table
    from linchain.training.distributed import check_same_inputs, inputs_of
    from linchain.training.fit import fit
    from linchain.training.trainer import trainer_arguments

    counts = parameter_counts(model)
    with ExitStack() as held, _told_of_the_disk(folder):
        with _together(folder):
            arguments = trainer_arguments(config, folder, data.validation is not None)
            start_tensors = start_of(model)
            inputs = inputs_of(config, data, start_tensors)
        with agreed():
            check_same_inputs(exchange(inputs))
        with _together(folder):
            if is_main():
                held.enter_context(folder.in_use())
                folder.check(start.resume, start.overwrite)
                if start.overwrite:
                    folder.clear()
                _write_beginnings(config, folder, data, start_tensors)
        began = time.perf_counter()

        def evaluate(stage: str, test: EvaluationData, model: Any) -> list[Score]:
            return _evaluate(config, folder, test, stage, data.tokenizer, model, console)

        trainer = _trainer(arguments, config, folder, data, model, evaluate)
        resumed_from = fit(config, folder, data, trainer, console)
        scores: dict[str, list[Score]] = {}
        if data.test and config.evaluation.baseline:
            scores["before"] = evaluate("before", data.test, trainer.model)
        with _together(folder):
            _save_trained(config, folder, data, trainer, start_tensors)
        if data.scored_validation:
            scores["validation"] = evaluate("validation", data.scored_validation, trainer.model)
        if data.test:
            scores["after"] = evaluate("after", data.test, trainer.model)
        result = _result(config, data, counts, trainer, scores) | {
            "seconds": round(time.perf_counter() - began, 1),
            "resumed_from_step": resumed_from,
        }
        with _together(folder):
            if is_main():
                _plot(folder)
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
    from linchain.training.distributed import layout
    from linchain.training.environment import describe_environment, hash_tensors

    now = describe_environment(model_path(config.model.name), data.records)
    now["overlap"] = [asdict(one) for one in data.overlaps]
    now["validation_overlap"] = [asdict(one) for one in data.validation_overlaps]
    if start is not None:
        now["start"] = hash_tensors(start)
    then = read_json(folder.environment) if folder.environment.is_file() else now
    for part in ("model", "data", "start"):
        if then.get(part) != now.get(part):
            raise LinchainError(f"--resume: the {part} changed since the run in {folder.path} began")
    write_text(folder.config, dump_config(config))
    write_json(folder.environment, then | {LAYOUT: layout()})


def _trainer(
    arguments: Any, config: RunConfig, folder: RunFolder, data: PreparedData, model: Any, evaluate: Callable[..., Any]
) -> Any:
    from linchain.training.callbacks import AtBeginning, MetricsFile
    from linchain.training.trainer import RunTrainer

    callbacks: list[Any] = [MetricsFile(folder.metrics, partial(_together, folder))]
    if data.test and config.evaluation.baseline:
        # first of all; not earlier, because some engines bring the weights to their devices when the training begins
        callbacks.insert(0, AtBeginning(partial(evaluate, "before", data.test)))
    trainer = RunTrainer(arguments, config.method, data, model, callbacks)
    if every := config.training.diagnostics_steps:
        from linchain.training.diagnose import Diagnostics

        trainer.add_callback(Diagnostics(folder.diagnostics, every, model))
    return trainer


def _save_trained(
    config: RunConfig, folder: RunFolder, data: PreparedData, trainer: Any, start: dict[str, Any] | None
) -> None:
    """Writes the adapter, or the model where it is trained in full, so that the folder is there whole or not at all."""
    import peft

    state = trainer.whole_state()
    if not is_main():
        return
    model = trainer.model
    adapted = isinstance(model, peft.PeftModel)
    whole = folder.adapter if adapted else folder.model
    part = whole.with_name(f"{whole.name}{PART}")
    for old in (part, whole):
        remove(old)
    model.save_pretrained(str(part), state_dict=state)
    if start is not None:
        _save_for_whole_base(part, start)
    data.tokenizer.save_pretrained(str(part))
    if adapted and data.labels is not None:  # a model has them in its config.json
        write_json(part / LABELS_FILE, data.labels.names)
    if config.model.quantization:
        write_json(part / QUANTIZATION_FILE, config.model.model_dump(include={"quantization", "dtype"}))
    put_in_place(part, whole)


@contextmanager
def _told_of_the_disk(folder: RunFolder) -> Iterator[None]:
    """Makes one line of a disk that does not take what the run writes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not refused_by_disk(error):
            raise
        raise LinchainError(f"run folder {folder.path}: {error}; when that is mended, --resume continues") from error


@contextmanager
def _together(folder: RunFolder) -> Iterator[None]:
    """A block that all processes leave together: what the disk does not take of one is a LinchainError in all."""
    with agreed(), _told_of_the_disk(folder):
        yield


def _save_for_whole_base(part: Path, start: dict[str, Any]) -> None:
    """Puts in the place of the adapter in `part`, which took `start` out of the base weights, the one that fits them as
    they were."""
    from linchain.convert.adapter import read_adapter, write_adapter
    from linchain.convert.moved_base import for_whole_base

    adapter = read_adapter(part)
    config, tensors = for_whole_base(adapter.peft_config(), adapter.tensors, start)
    write_adapter(config, tensors, part)


def _evaluate(
    config: RunConfig, folder: RunFolder, test: EvaluationData, stage: str, tokenizer: Any, model: Any, console: Console
) -> list[Score]:
    """Scores of a split at a stage, from the predictions on disk where an interrupted run has already made them."""
    file = folder.predictions / f"{stage}.jsonl"
    if exchange(file.is_file())[0]:
        return score(test.metric, read_jsonl(file))
    title = "evaluating on validation data" if stage == "validation" else f"evaluating {stage} training"
    try:
        rows = predicted(config, model, tokenizer, test, title, console)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise while_evaluating(config.evaluation.batch_size) from error
    with _together(folder):
        if is_main():
            write_jsonl(file, rows)
    return score(test.metric, rows)


def _plot(folder: RunFolder) -> None:
    from linchain.training.plot import plot_losses

    if folder.metrics.is_file():
        plot_losses(read_jsonl(folder.metrics), folder.plot)


def _result(
    config: RunConfig, data: PreparedData, counts: tuple[int, int], trainer: Any, scores: dict[str, list[Score]]
) -> dict[str, Any]:
    trainable, total = counts
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
