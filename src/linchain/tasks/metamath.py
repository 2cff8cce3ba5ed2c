"""Competition mathematics: MetaMathQA to learn from (arXiv 2309.12284), MATH to test on, beside arithmetic's GSM8K."""

from __future__ import annotations

from linchain.tasks.task import Row, Split, Task


def _metamath(row: Row) -> Row:
    return {"instruction": row["query"], "input": "", "output": row["response"]}


def _math(row: Row) -> Row:
    return {"instruction": row["problem"], "input": "", "output": row["solution"], "answer": row["answer"]}


TASKS = (
    Task(
        name="metamathqa",
        title="MetaMathQA",
        family="metamath",
        metric="loss",
        splits={"train": Split(395000, source="meta-math/MetaMathQA:train")},
        licence="MIT",
        from_hub=_metamath,
        note="Written by GPT-3.5 from the training problems of GSM8K and MATH.",
    ),
    Task(
        name="math",
        title="MATH",
        family="metamath",
        metric="exact_match",
        splits={
            "train": Split(4500, "math/math.train4500.jsonl"),
            "test": Split(500, "math/math.test500.jsonl", source="HuggingFaceH4/MATH-500:test"),
        },
        licence="MIT; the publisher of the problems, AoPS, has disputed the rights",
        answer="expression",
        max_new_tokens=512,
        from_hub=_math,
        note="The test split is MATH-500, a part of the official 5,000 test problems, which papers report on. The training "
        "split is the other 4,500 of them (PRM800K's split): whoever trains on it cannot report on the 5,000.",
    ),
)
