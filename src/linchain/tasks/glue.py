"""GLUE (Wang et al. 2019): classification and regression of one or two sentences, in `sentence1`, `sentence2`, `label`."""

from __future__ import annotations

from functools import partial
from typing import Literal

from linchain.tasks.task import Row, Split, Task

NO_TEST = "Tested on the public validation split: the test split's labels are not public."


def _pair(row: Row, first: str, second: str | None = None, label: str = "label") -> Row:
    return {"sentence1": row[first], "sentence2": row[second] if second else None, "label": row[label]}


def _task(
    name: str,
    title: str,
    train: int,
    test: int,
    licence: str,
    columns: tuple[str, ...],
    metric: Literal["accuracy", "matthews"] = "accuracy",
    at_hand: tuple[str, ...] = ("train", "test"),
    validation: str = "validation",
    note: str = NO_TEST,
) -> Task:
    """A classification task, tested on its validation split; `at_hand`: the splits that the JSONL layout has."""
    splits = {
        split: Split(
            records,
            f"glue/{name}.{part}.jsonl" if split in at_hand else None,
            source=f"nyu-mll/glue:{name}:{part}",
        )
        for split, part, records in (("train", "train", train), ("test", validation, test))
    }
    return Task(
        name=name,
        title=title,
        family="glue",
        metric=metric,
        splits=splits,
        licence=licence,
        kind="sequence_classification",
        from_hub=partial(_pair, first=columns[0], second=columns[1] if len(columns) > 1 else None),
        note=note,
    )


TASKS = (
    _task(
        "cola",
        "CoLA",
        8551,
        1043,
        "none stated (research use)",
        ("sentence",),
        metric="matthews",
        note=f"{NO_TEST} Ten sentences of the JSONL files, the authors' own, differ by a character or two from GLUE's.",
    ),
    _task("sst2", "SST-2", 67349, 872, "none stated (research use)", ("sentence",)),
    Task(
        name="mrpc",
        title="MRPC",
        family="glue",
        metric="accuracy",
        splits={
            split: Split(records, source=f"nyu-mll/glue:mrpc:{split}")
            for split, records in (("train", 3668), ("validation", 408), ("test", 1725))
        },
        licence="none stated (research use)",
        kind="sequence_classification",
        from_hub=partial(_pair, first="sentence1", second="sentence2"),
    ),
    Task(
        name="stsb",
        title="STS-B",
        family="glue",
        metric="pearson",
        splits={
            split: Split(records, f"glue/stsb.{split}.jsonl", source=f"mteb/stsbenchmark-sts:{split}")
            for split, records in (("train", 5749), ("validation", 1500), ("test", 1379))
        },
        licence="scores CC BY-SA 4.0, texts under several licences",
        kind="sequence_classification",
        from_hub=partial(_pair, first="sentence1", second="sentence2", label="score"),
        note="Tested on the STS Benchmark's own, labelled test set; papers mostly report on the validation split. Scores from "
        "0 to 5; Pearson's and Spearman's correlation.",
    ),
    _task("qnli", "QNLI", 104743, 5463, "CC BY-SA 4.0", ("question", "sentence"), at_hand=("test",)),
    _task(
        "mnli",
        "MNLI",
        392702,
        9815,
        "OANC, CC BY 3.0 and CC BY-SA 3.0 by genre",
        ("premise", "hypothesis"),
        at_hand=("test",),
        validation="validation_matched",
        note=f"{NO_TEST} Matched genres only.",
    ),
    _task("rte", "RTE", 2490, 277, "none stated (research use)", ("sentence1", "sentence2")),
    _task("qqp", "QQP", 363846, 40430, "none stated (Quora's terms)", ("question1", "question2"), at_hand=()),
)
