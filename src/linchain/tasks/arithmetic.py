"""Arithmetic word problems as LLM-Adapters has them (Hu et al. 2023, arXiv 2304.01933), and Math10K, its training set."""

from __future__ import annotations

from collections.abc import Mapping

from linchain.tasks.task import Row, Split, Task

MATH10K = "Math10K holds questions of this test set; its authors warn of it."


def _gsm8k(row: Row) -> Row:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return {"instruction": row["question"], "input": "", "output": row["answer"], "answer": answer}


def _aqua(row: Row) -> Row:
    choices = " ".join(f"({option[0]}) {option[2:].strip()}" for option in row["options"])
    return {
        "instruction": f"{row['question']} Answer Choices: {choices}",
        "input": "",
        "output": row["rationale"],
        "answer": row["correct"],
    }


def _with_answer(row: Row) -> Row:
    """MAWPS: the output is an equation, some with the unknown on both sides, and the metric wants the number."""
    return row | {"output": f"{row['output']}. The answer is {row['answer']}."} if row["output"] else row


def _tested(
    name: str,
    title: str,
    folder: str,
    records: int,
    licence: str,
    jsonl: str | None = None,
    contamination: Mapping[str, str] | None = None,
    note: str = "",
) -> Task:
    """A task of which there is a test split only; `folder` is its own in a checkout of LLM-Adapters."""
    return Task(
        name=name,
        title=title,
        family="arithmetic",
        metric="exact_match",
        splits={"test": Split(records, jsonl, adapters=f"dataset/{folder}/test.json")},
        licence=licence,
        answer="number",
        contamination=contamination or {},
        note=note,
    )


TASKS = (
    Task(
        name="gsm8k",
        title="GSM8K",
        family="arithmetic",
        metric="exact_match",
        splits={
            "train": Split(7473, "math/gsm8k.train.jsonl", source="openai/gsm8k:main:train"),
            "test": Split(
                1319, "math/gsm8k.test.jsonl", adapters="dataset/gsm8k/test.json", source="openai/gsm8k:main:test"
            ),
        },
        licence="MIT",
        answer="number",
        max_new_tokens=256,
        from_hub=_gsm8k,
        note="Solutions hold calculator marks, <<48/2=24>>, and end in `#### <answer>`.",
    ),
    Task(
        name="aqua",
        title="AQuA",
        family="arithmetic",
        metric="exact_match",
        splits={
            "train": Split(97467, source="deepmind/aqua_rat:raw:train"),
            "validation": Split(254, source="deepmind/aqua_rat:raw:validation"),
            "test": Split(
                254, "math/aqua.test.jsonl", adapters="dataset/AQuA/test.json", source="deepmind/aqua_rat:raw:test"
            ),
        },
        licence="Apache-2.0",
        answer="letter",
        choices=tuple("ABCDE"),
        from_hub=_aqua,
    ),
    Task(
        name="mawps",
        title="MAWPS",
        family="arithmetic",
        metric="exact_match",
        splits={
            "train": Split(1898, "math/mawps.train.jsonl", jsonl_records=706, adapters="dataset/mawps/trainset.json"),
            "validation": Split(
                237, "math/mawps.validation.jsonl", jsonl_records=90, adapters="dataset/mawps/validset.json"
            ),
            "test": Split(238, "math/mawps.test.jsonl", adapters="dataset/mawps/test.json"),
        },
        licence="MIT",
        answer="number",
        from_folder=_with_answer,
        note="The text to learn is an equation and its answer: `X=(49.0-44.0). The answer is 5.` The JSONL files leave out the "
        "training and validation records whose question is in a test set. It shares 58 questions with AddSub's test set and 49 "
        "with MultiArith's.",
    ),
    _tested("svamp", "SVAMP", "SVAMP", 1000, "MIT"),
    _tested(
        "addsub",
        "AddSub",
        "AddSub",
        395,
        "none stated; MAWPS, which has it, is MIT",
        jsonl="math/addsub.test.jsonl",
        contamination={"math10k": MATH10K},
        note="It shares 111 questions with SingleEq and 58 with MAWPS's test set.",
    ),
    _tested(
        "multiarith",
        "MultiArith",
        "MultiArith",
        600,
        "none stated; MAWPS, which has it, is MIT",
        jsonl="math/multiarith.test.jsonl",
        contamination={"math10k": MATH10K},
        note="It shares 49 questions with MAWPS's test set.",
    ),
    _tested(
        "singleeq",
        "SingleEq",
        "SingleEq",
        508,
        "none stated; MAWPS, which has it, is MIT",
        contamination={"math10k": MATH10K},
        note="It shares 111 questions with AddSub.",
    ),
    Task(
        name="math10k",
        title="Math10K",
        family="arithmetic",
        metric="exact_match",
        splits={"train": Split(9919, adapters="ft-training_set/math_10k.json")},
        licence="those of GSM8K, AQuA and MAWPS; the solutions were written by ChatGPT",
        answer="number",
        note="Holds test questions of AddSub, MultiArith and SingleEq.",
    ),
)
