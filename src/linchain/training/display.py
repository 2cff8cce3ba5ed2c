"""What a run shows: the preview of an example, the report before the first step, the table of scores, the paths."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from linchain import methods, processes
from linchain.diagnostics.memory import MemoryEstimate, estimate_training_memory
from linchain.diagnostics.parameters import parameter_counts
from linchain.errors import printable
from linchain.evaluation.data import EvaluationData
from linchain.evaluation.harness import HarnessScore
from linchain.evaluation.scores import Score
from linchain.tasks.encoding import IGNORE
from linchain.tasks.overlap import Overlap
from linchain.training.config import RunConfig, TrainingConfig
from linchain.training.prepare import PreparedData
from linchain.training.run_folder import RunFolder


def preview(data: PreparedData) -> RenderableType:
    """The first training example: its tokens, the learned ones green and underlined, and its runs of either kind."""
    example = data.train[0]
    tokens = data.tokenizer.convert_ids_to_tokens(example.input_ids)
    if not isinstance(example.labels, list):
        label = data.records["train"][0].fields["label"]
        head = f"{example.where}, {len(tokens)} tokens, label {label}"
        return Group(Text(printable(head)), Text(printable(" ".join(tokens))))
    learned = [label != IGNORE for label in example.labels]
    head = f"{example.where}, format {data.format.name}: {len(tokens)} tokens, {sum(learned)} learned"
    listing = Text()
    for token, teaches in zip(tokens, learned, strict=True):
        listing.append(printable(token), style="green underline" if teaches else "dim")
        listing.append(" ")
    table = Table("loss", "tokens", "text")
    for teaches, places in itertools.groupby(range(len(tokens)), key=learned.__getitem__):
        run = [example.input_ids[place] for place in places]
        table.add_row("yes" if teaches else "no", str(len(run)), Text(repr(data.tokenizer.decode(run))))
    return Group(Text(head, style="bold"), listing, table)


def steps_of(training: TrainingConfig, examples: int, count: int = 1) -> int:
    """Number of optimizer steps of `count` processes, counted as transformers.Trainer counts them."""
    batches = math.ceil(math.ceil(examples / training.batch_size) / count)
    per_epoch = max(math.ceil(batches / training.gradient_accumulation_steps), 1)
    return training.max_steps or math.ceil(training.epochs * per_epoch)


def report(config: RunConfig, data: PreparedData, model: Any) -> RenderableType:
    """What will be trained, on what, for how long and in how much memory."""
    training = config.training
    trainable, total = parameter_counts(model)
    count = processes.count()
    batch = count * training.batch_size * training.gradient_accumulation_steps
    shared = f" on {count} processes" if count > 1 else ""
    steps = steps_of(training, len(data.train), count)
    longest = max(len(example.input_ids) for example in data.train)
    memory = estimate_training_memory(
        model,
        batch_size=min(training.batch_size, len(data.train)),
        sequence_length=longest,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    rows = {
        "model": f"{config.model.name}, {total - trainable:,} parameters frozen",
        "method": f"{config.method.name}, {trainable:,} trainable ({100 * trainable / total:.3f} %)",
        "": _adapter_line(model),
        "data": _data_line(data),
        **({"overlap": _overlap_lines(data)} if data.overlaps else {}),
        **({"answers": line} if data.test and (line := answers_line(data.test)) else {}),
        "steps": f"{steps:,} of {batch} examples{shared}, learning rate {training.learning_rate:g}",
        "memory": _memory_line(memory, training.precision),
        "output": config.output,
    }
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(Text(name, style="bold"), Text(text))
    return table


def _adapter_line(model: Any) -> str:
    """Rank, alpha and targets as they came to be: what makes two methods comparable, or not."""
    config = getattr(model, "active_peft_config", None)
    if config is None:
        return "all weights, in float32"
    targets = config.target_modules
    named = (
        ", ".join(sorted({name.rpartition(".")[2] for name in targets})) if not isinstance(targets, str) else targets
    )
    alpha = f", lora_alpha {config.lora_alpha}" if hasattr(config, "lora_alpha") else ""
    return f"r {config.r}{alpha}, on {named}"


def _data_line(data: PreparedData) -> str:
    counts = ", ".join(f"{len(records):,} {split}" for split, records in data.records.items())
    cut = sum(example.cut for example in data.train)
    line = f"{counts} (format {data.format.name})"
    return line + (f"; {cut:,} training examples cut to {data.max_length} tokens" if cut else "")


def answers_line(data: EvaluationData) -> str | None:
    """A warning where the records' own outputs would be scored wrong, because no answer is read out of them."""
    missed, tried = data.missed
    if missed <= tried / 10:
        return None
    return (
        f"warning: of {tried:,} records to be scored, {missed:,} would be wrong by their own `output`: what is read out of it "
        "is not their `answer` (docs/tasks.md, How answers are read); evaluation.metric=loss scores the outputs themselves"
    )


def _overlap_lines(data: PreparedData) -> str:
    lines = [overlap_line(data.overlaps)]
    if data.validation_overlaps:
        lines.append(overlap_line(data.validation_overlaps, "validation"))
    return "\n".join(lines)


def overlap_line(overlaps: Sequence[Overlap], split: str = "training") -> str:
    """How far a test score can be memory, or for `split` "validation" how far test data choose what is tested."""
    found = [overlap for overlap in overlaps if overlap.same or overlap.near]
    if not found:
        return f"no test question is in the {split} data"
    line = "; ".join(
        f"{overlap.same:,} of {overlap.n:,} test questions"
        + (f" of {overlap.test}" if len(overlaps) > 1 else "")
        + f" are in the {split} data"
        + (f", and {overlap.near:,} nearly so" if overlap.near else "")
        for overlap in found
    )
    example = next(iter(example for overlap in found for example in overlap.examples), None)
    return line + (f" ({example[0]} is {example[1]})" if example else "")


def _memory_line(memory: MemoryEstimate, precision: str) -> str:
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    if memory.activations is not None:
        parts["activations"] = memory.activations
    listed = ", ".join(f"{name} {mebibytes(size)}" for name, size in parts.items())
    beside = "" if memory.activations is not None else ", activations unknown"
    without = "" if precision == "float32" else f"; as without {precision} autocast"
    return f"about {mebibytes(memory.total)} ({listed}{beside}){without}"


def mebibytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def score_table(title: str, columns: dict[str, list[Score]]) -> RenderableType:
    """Scores with their 95 % intervals and the number of examples, two columns for each entry of `columns`."""
    listed = next(iter(columns.values()))
    several = len({score.task for score in listed}) > 1
    kinds = dict.fromkeys(score.interval for score in listed)
    examples = "" if several else f"{listed[0].n} examples; "
    table = Table(*(("task", "examples") if several else ()), "metric")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("95 %", style="dim")
    for scores in zip(*columns.values(), strict=True):
        of_task = (scores[0].task, f"{scores[0].n:,}") if several else ()
        table.add_row(*of_task, scores[0].name, *(text for score in scores for text in score.shown()))
    caption = f"{examples}95 % intervals: {', '.join(kinds)}"
    return Group(Text(title, style="bold"), table, Text(caption, style="dim"))


def harness_table(title: str, scores: Sequence[HarnessScore]) -> RenderableType:
    """Scores of lm-evaluation-harness with their 95 % intervals, one row a task and metric."""
    table = Table(*(Column(name, overflow="fold") for name in ("task", "shots", "metric")))
    for name, style in (("value", None), ("95 %", "dim"), ("n", None)):
        table.add_column(name, justify="right", style=style, no_wrap=True)
    for score in scores:
        metric = score.metric if score.filter == "none" else f"{score.metric} ({score.filter})"
        interval = " to ".join(f"{end:.3g}" for end in score.interval or ())
        shots = "" if score.shots is None else str(score.shots)
        table.add_row(
            Text(printable(score.task)), shots, Text(printable(metric)), f"{score.value:.4g}", interval, f"{score.n:,}"
        )
    caption = f"lm-evaluation-harness {version('lm_eval')}, n examples; 95 % intervals: 1.96 standard errors each way"
    return Group(Text(title, style="bold"), table, Text(caption, style="dim"))


def paths(folder: RunFolder, method: str) -> str:
    """Where the parts of a finished run lie, and what can be done next; lines to print unwrapped, as they are copied."""
    parts = {
        "adapter": folder.adapter,
        "model": folder.model,
        "predictions": folder.predictions,
        "metrics": folder.metrics,
        "loss curve": folder.plot,
        "result": folder.result,
    }
    lines = {name: str(path) for name, path in parts.items() if path.exists()}
    lines["evaluate"] = shlex.join(["linchain", "evaluate", str(folder.path)])
    if folder.adapter.exists():
        to = "lora" if methods.get(method).result == "foldable" else "merged"
        lines["export"] = shlex.join(["linchain", "export", str(folder.adapter), str(folder.path / to), "--to", to])
    return "\n".join(f"{name:<12} {line}" for name, line in lines.items())
