"""Test examples on which the contestants disagree, one seed's answers side by side."""

from __future__ import annotations

from typing import Any

from linchain.lab.report import words
from linchain.lab.report.content import Answer, Example, Examples
from linchain.lab.report.study import Study, suffix, within

SHOWN, PROMPT, ANSWER = 8, 700, 400
Row = dict[str, Any]
Key = tuple[Any, Any]


def disagreements(study: Study, budget: int | None) -> Examples | None:
    """Those that split the contestants most evenly into right and wrong; of equal ones the first in the data.

    None where answers are not right or wrong, or no seed was run by two contestants.
    """
    answered = _answers(study, budget)
    if answered is None:
        return None
    seed, by_contestant = answered
    first = next(iter(by_contestant.values()))
    keys = [key for key in first if all(key in rows for rows in by_contestant.values())]
    split = {key: sum(bool(rows[key]["correct"]) for rows in by_contestant.values()) for key in keys}
    all_of = len(by_contestant)
    divided = [key for key in keys if 0 < split[key] < all_of]
    chosen = sorted(divided, key=lambda key: abs(2 * split[key] - all_of))[:SHOWN]
    if not chosen:
        return None
    caption = (
        f"Of {len(keys):,} test examples, {len(divided):,} divide the contestants into right and wrong{within(budget)} (seed "
        f"{seed} of each). Shown are the {len(chosen)} that divide them most evenly; long texts are cut."
    )
    examples = tuple(_example(key, by_contestant) for key in chosen)
    return Examples(f"{study.name}-disagreements{suffix(budget)}", caption, examples)


def _answers(study: Study, budget: int | None) -> tuple[int, dict[str, dict[Key, Row]]] | None:
    """The first seed that two or more contestants finished, and their rows by example."""
    for seed in study.comparison.plan.seeds:
        found = {}
        for label in study.contestants:
            for trial in study.runs(label, budget):
                if trial.seed == seed:
                    rows = trial.predictions("test")
                    if rows and "correct" in rows[0]:
                        found[label] = {(row.get("task"), row["id"]): row for row in rows}
        if len(found) > 1:
            return seed, found
    return None


def _example(key: Key, by_contestant: dict[str, dict[Key, Row]]) -> Example:
    row = next(iter(by_contestant.values()))[key]
    where = " ".join(str(part).rpartition("/")[2] for part in key if part is not None)
    gold = row.get("answer", row.get("label", ""))
    answers = tuple(_answer(label, rows[key]) for label, rows in by_contestant.items())
    return Example(where, words.shortened(str(row.get("prompt", "")).strip(), PROMPT), str(gold), answers)


def _answer(label: str, row: Row) -> Answer:
    read = str(row.get("extracted") if row.get("extracted") is not None else row.get("prediction", ""))
    text = str(row.get("generated", read)).strip()
    shown = words.shortened(text, ANSWER) or "(nothing)"
    return Answer(label, shown, bool(row["correct"]), words.shortened(read, 80) if read != text else "")
