"""`linchain evaluate`: score a model, an adapter or a run on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    target: Annotated[
        str, typer.Argument(help="A run folder, an adapter folder, or a model (folder, Hub name, `starter`).")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="`task:<name>`, file, `starter:<kind>` or Hub name; may be repeated. Default: the run's data.test."
        ),
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where the data of tasks lie. Default: the run's data.folder.")
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(help="Instead of data: tasks of lm-evaluation-harness, such as arc_easy,hellaswag."),
    ] = None,
    harness_include: Annotated[
        str | None, typer.Option(help="Folder with definitions (YAML) of more tasks for --harness.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="loss, exact_match, accuracy, matthews, pearson; auto goes by the data.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="generate, or loglikelihood for prompts that list their answers.")
    ] = None,
    extraction: Annotated[
        str | None, typer.Option(help="How answers are read out of generated text: standard, paper or math_verify.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="auto, text, instruction, prompt_completion, messages, sharegpt or sentence_pair."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="What a column is called in the data: output=completion; may be repeated.", metavar="NEEDED=NAME"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model, where not the one the adapter names.")] = None,
    task: Annotated[str | None, typer.Option(help="causal_lm or sequence_classification.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file, for tokenizers without a template.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many records of each task.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut examples to so many tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest generated answer.")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams of the search; 1 is greedy.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per forward pass.")] = None,
    train_on_prompt: Annotated[
        bool | None, typer.Option("--train-on-prompt", help="Take the loss on the prompt too.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="File for the predictions. Default: `<run>/predictions/<data>.<metric>.jsonl` for a run, else "
            "`predictions/<target>.<data>.<metric>.jsonl`; an --extraction is named behind the metric, and with --model it "
            "ends in `.on-<model>.jsonl`"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing predictions file.")] = False,
) -> None:
    """Score TARGET on data, with 95 % intervals, and keep the prediction of each example."""
    from rich.console import Console

    from linchain.quiet import quiet_libraries

    quiet_libraries()

    from linchain.errors import LinchainError
    from linchain.lab.trials import check_no_comparison
    from linchain.training.display import harness_table, score_table
    from linchain.training.evaluate import Question, evaluate_target
    from linchain.training.harness import evaluate_with_harness

    options: dict[str, Any] = {
        "task": task,
        "model.dtype": dtype,
        "model.chat_template": chat_template,
        "data.test": data,
        "data.folder": folder,
        "data.format": format,
        "data.columns": _columns(columns) if columns else None,
        "data.max_length": max_length,
        "data.train_on_prompt": train_on_prompt,
        "evaluation.metric": metric,
        "evaluation.scorer": scorer,
        "evaluation.extraction": extraction,
        "evaluation.limit": limit,
        "evaluation.max_new_tokens": max_new_tokens,
        "evaluation.num_beams": num_beams,
        "evaluation.batch_size": batch_size,
    }
    check_no_comparison(Path(target))
    given = {key: value for key, value in options.items() if value is not None}
    console = Console()
    question = Question(target, model, given, output, overwrite)
    if harness is not None:
        asked = evaluate_with_harness(question, harness.replace(" ", "").split(","), harness_include)
        table, predictions = harness_table(target, asked.scores), asked.predictions
    elif harness_include is not None:
        raise LinchainError("--harness-include is for --harness: name the tasks too")
    else:
        answer = evaluate_target(question, console)
        table, predictions = score_table(f"{target} on {answer.data}", {"value": answer.scores}), answer.predictions
    console.print(table)
    console.print(f"predictions: {predictions}", markup=False, highlight=False, soft_wrap=True)


def _columns(pairs: list[str]) -> dict[str, str]:
    from linchain.errors import LinchainError

    for pair in pairs:
        if not all(pair.partition("=")):
            raise LinchainError(f"--columns {pair!r}: expected NEEDED=NAME, such as output=completion")
    return dict(pair.split("=", 1) for pair in pairs)
