"""Commonsense reasoning as LLM-Adapters words it (Hu et al. 2023, arXiv 2304.01933): eight tasks and their training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from linchain.tasks.task import Row, Split, Task


def record(question: str, word: str, choices: Sequence[str], gold: int, between: str = " ", end: str = "\n\n") -> Row:
    """A multiple-choice question in LLM-Adapters' wording; `gold` counts from 1."""
    listed = between.join(f"{word.capitalize()}{number}: {choice}" for number, choice in enumerate(choices, 1))
    names = "/".join(f"{word}{number}" for number in range(1, len(choices) + 1))
    return _answered(f"{question}\n\n{listed}{end}Answer format: {names}", f"{word}{gold}")


def _answered(instruction: str, answer: str) -> Row:
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def _lettered(row: Row, question: str) -> Row:
    """ARC and OpenBookQA: choices with labels, which are letters or numbers."""
    choices = row["choices"]
    gold = choices["label"].index(row["answerKey"].strip()) + 1
    return record(f"Please choose the correct answer to the question: {row[question]}", "answer", choices["text"], gold)


def _piqa(row: Row) -> Row:
    question = f"Please choose the correct solution to the question: {row['goal']}"
    return record(question, "solution", (row["sol1"], row["sol2"]), int(row["label"]) + 1, between="\n\n")


def _siqa(row: Row) -> Row:
    question = f"Please choose the correct answer to the question: {row['context']} {row['question']}"
    return record(question, "answer", [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]))


def _winogrande(row: Row) -> Row:
    question = (
        "Please choose the correct answer to fill in the blank to complete the given sentence: " + row["sentence"]
    )
    return record(question, "option", (row["option1"], row["option2"]), int(row["answer"]), end=" ")


def _hellaswag(row: Row) -> Row:
    question = f"Please choose the correct ending to complete the given sentence: {row['activity_label']}: {row['ctx']}"
    return record(question, "ending", row["endings"], int(row["label"]) + 1)


def _boolq(row: Row) -> Row:
    question = f"Please answer the following question with true or false, question: {row['question']}?"
    return _answered(f"{question}\n\nAnswer format: true/false", "true" if row["answer"] else "false")


def _task(
    name: str,
    title: str,
    folder: str,
    choices: Sequence[str],
    licence: str,
    from_hub: Callable[[Row], Row],
    splits: Mapping[str, Split],
    note: str = "",
) -> Task:
    """A task of the family; `folder` is its own in a checkout of LLM-Adapters, which has no validation splits."""
    return Task(
        name=name,
        title=title,
        family="commonsense",
        metric="exact_match",
        splits={
            split: one if split == "validation" else replace(one, adapters=f"dataset/{folder}/{split}.json")
            for split, one in splits.items()
        },
        licence=licence,
        answer="choice",
        choices=tuple(choices),
        max_new_tokens=32,
        from_hub=from_hub,
        note=note,
    )


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


TASKS = (
    _task(
        "arc_easy",
        "ARC-e",
        "ARC-Easy",
        _numbered("answer", 5),
        "CC BY-SA 4.0",
        partial(_lettered, question="question"),
        {
            "train": Split(2251, "commonsense/arc_easy.train.jsonl", source="allenai/ai2_arc:ARC-Easy:train"),
            "validation": Split(570, source="allenai/ai2_arc:ARC-Easy:validation"),
            "test": Split(2376, "commonsense/arc_easy.test.jsonl", source="allenai/ai2_arc:ARC-Easy:test"),
        },
    ),
    _task(
        "arc_challenge",
        "ARC-c",
        "ARC-Challenge",
        _numbered("answer", 5),
        "CC BY-SA 4.0",
        partial(_lettered, question="question"),
        {
            "train": Split(1119, "commonsense/arc_challenge.train.jsonl", source="allenai/ai2_arc:ARC-Challenge:train"),
            "validation": Split(299, source="allenai/ai2_arc:ARC-Challenge:validation"),
            "test": Split(1172, "commonsense/arc_challenge.test.jsonl", source="allenai/ai2_arc:ARC-Challenge:test"),
        },
    ),
    _task(
        "openbookqa",
        "OBQA",
        "openbookqa",
        _numbered("answer", 4),
        "Apache-2.0",
        partial(_lettered, question="question_stem"),
        {
            "train": Split(4957, "commonsense/openbookqa.train.jsonl", source="allenai/openbookqa:main:train"),
            "validation": Split(500, source="allenai/openbookqa:main:validation"),
            "test": Split(500, "commonsense/openbookqa.test.jsonl", source="allenai/openbookqa:main:test"),
        },
    ),
    _task(
        "piqa",
        "PIQA",
        "piqa",
        _numbered("solution", 2),
        "Academic Free License 3.0",
        _piqa,
        {
            "train": Split(16113, source="baber/piqa:train"),
            "test": Split(1838, "commonsense/piqa.test.jsonl", source="baber/piqa:validation"),
        },
        note="Tested on the public validation split; the test split's answers are not public.",
    ),
    _task(
        "social_i_qa",
        "SIQA",
        "social_i_qa",
        _numbered("answer", 3),
        "CC BY 4.0 by AI2's page; the Hub's card states none",
        _siqa,
        {
            "train": Split(33410, source="lighteval/siqa:train"),
            "test": Split(1954, "commonsense/social_i_qa.test.jsonl", source="lighteval/siqa:validation"),
        },
        note="Tested on the public validation split; the test split's answers are not public.",
    ),
    _task(
        "winogrande",
        "WinoGrande",
        "winogrande",
        _numbered("option", 2),
        "CC BY (data), Apache-2.0 (code)",
        _winogrande,
        {
            "train": Split(63238, source="allenai/winogrande:winogrande_xl:train"),
            "test": Split(
                1267, "commonsense/winogrande.test.jsonl", source="allenai/winogrande:winogrande_xl:validation"
            ),
        },
        note="Tested on the public validation split. LLM-Adapters joins the training sets of all sizes; the Hub's largest has "
        "40,398 records.",
    ),
    _task(
        "hellaswag",
        "HellaSwag",
        "hellaswag",
        _numbered("ending", 4),
        "MIT",
        _hellaswag,
        {
            "train": Split(39905, source="Rowan/hellaswag:train"),
            "test": Split(
                10042,
                "commonsense/hellaswag_activitynet.test.jsonl",
                jsonl_records=3243,
                source="Rowan/hellaswag:validation",
            ),
        },
        note="Tested on the public validation split. The JSONL file is its ActivityNet part.",
    ),
    _task(
        "boolq",
        "BoolQ",
        "boolq",
        ("true", "false"),
        "CC BY-SA 3.0",
        _boolq,
        {
            "train": Split(9427, "commonsense/boolq.train.jsonl", source="google/boolq:train"),
            "test": Split(3270, source="google/boolq:validation"),
        },
        note="The prompt is the question without its passage, as LLM-Adapters has it. LinChain's paper trains on it and "
        "reports no figure. Tested on the public validation split.",
    ),
    Task(
        name="commonsense170k",
        title="Commonsense170K",
        family="commonsense",
        metric="exact_match",
        splits={
            "train": Split(
                170420, adapters="ft-training_set/commonsense_170k.json", source="zwhe99/commonsense_170k:train"
            )
        },
        licence="those of the eight tasks",
        answer="choice",
        max_new_tokens=32,
        note="The training sets of the eight tasks together. A part of it is a list of them: "
        "`[task:arc_easy, task:arc_challenge, task:openbookqa, task:boolq]`.",
    ),
)
