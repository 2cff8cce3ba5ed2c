"""The page of all tasks and protocols, from the registry itself: `python -m linchain.tasks.page`."""

from __future__ import annotations

from linchain import tasks
from linchain.tasks import protocols
from linchain.tasks.records import STARTER
from linchain.tasks.task import Split, Task

HEAD = """# Tasks

What `task:<name>` stands for in `data.train`, `data.validation` and `data.test`. Several test tasks are scored apart, each by
its own metric, and then by their mean. Written by `python -m linchain.tasks.page > docs/tasks.md`.

    data:
      train: [task:arc_easy, task:openbookqa]
      validation_size: 200
      test: [task:arc_easy, task:openbookqa, task:piqa]
      folder: data          # without it: the Hub

`data.folder` is a folder in the JSONL layout below (`commonsense/arc_easy.train.jsonl`, …: one record a line, in the columns
of our formats) or a checkout of [LLM-Adapters](https://github.com/AGI-Edgerunners/LLM-Adapters), whose data the papers used;
what is there decides. Rows from the Hub are put into the same columns, and into LLM-Adapters' words where that is a task's
prompt. Where a benchmark's test labels are not public, its public validation split is the `test` here and there is no
`validation`: hold training records back with `data.validation_size`, so that nothing is chosen by what is tested on.

"""

ANSWERS = r"""## How answers are read

`evaluation.scorer: generate` (the default) lets the model write and reads the answer out of the text, by the kind of the gold
answer. `evaluation.extraction` chooses the rules:

| answer | `standard` | `paper`: LLM-Adapters' code | `math_verify` |
|---|---|---|---|
| choice | the first word of its kind (`answer1` to `answer5`; `true`; …), in any case | in lower case only | as `standard` |
| letter | the one that is said to be the answer | the first of A to E, also inside a word: "An" is A | as `standard` |
| number | the last number, commas removed, equal within 0.001 | the same | the answer, equal by value |
| expression | in the last `\boxed{}`, or behind the last "answer is", equal as text | none: as `standard` | equal by value |
| other text | the whole text, but for case, spacing and outer punctuation: "It is red." is not "red" | the same | the same |

The letter that is said to be the answer is the one behind the last "answer is" ("The answer is (C)."), else the last in
brackets, else the last of A to E that stands alone: the others may be people, pipes or the article.

As text, expressions are equal but for spacing, units, and ways to write a fraction or a root; by value, 2/4 is 0.5.
`math_verify` needs an extra: `pip install 'linchain[math]'`.

`evaluation.scorer: loglikelihood` generates nothing: of the answers that a prompt lists (`Answer format: answer1/answer2`),
each written as the gold output is ("the correct answer is answer2"), the most probable one is taken. The score, `accuracy`,
goes by the sum of its tokens' log-probabilities; whether their mean would have chosen right is in each row as
`correct_normalised`, and so are both values of every choice.

"""

PROTOCOLS = """## Protocols

`protocol: <name>` gives defaults for other keys. The command line wins over the file, the file over the protocol, the
protocol over the default.

"""

TITLES = {"glue": "GLUE", "metamath": "MetaMath"}


def tasks_page() -> str:
    """The page in Markdown: a section a family, the rules for answers, the protocols."""
    families = dict.fromkeys(task.family for task in tasks.registry())
    sections = [_family(name, [task for task in tasks.registry() if task.family == name]) for name in families]
    described = "\n".join(_protocol(protocol) for protocol in protocols.PROTOCOLS.values())
    return HEAD + "\n".join(sections) + "\n" + ANSWERS + PROTOCOLS + described


def _family(name: str, members: list[Task]) -> str:
    rows = [
        f"| `{task.name}` | {task.title} | {_metric(task)} | {_size(task, 'train')} | {_size(task, 'validation')} "
        f"| {_size(task, 'test')} | {task.licence} |"
        for task in members
    ]
    return "\n".join(
        [
            f"## {TITLES.get(name, name.replace('_', ' ').capitalize())}",
            "",
            "| name | | metric | train | validation | test | licence |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *_remarks(members),
            *_places(members),
        ]
    )


def _metric(task: Task) -> str:
    if "test" not in task.splits:
        return ""
    if task.metric == "exact_match":
        between = "or" if len(task.choices) == 2 else "to"
        choices = f" of `{task.choices[0]}` {between} `{task.choices[-1]}`" if task.choices else ""
        return f"exact match ({task.answer}{choices}, {task.max_new_tokens} tokens)"
    return {"pearson": "pearson, spearman", "loss": "loss, perplexity"}.get(task.metric, task.metric)


def _size(task: Task, split: str) -> str:
    return f"{task.splits[split].records:,}" if split in task.splits else ""


def _remarks(members: list[Task]) -> list[str]:
    remarks = []
    for task in members:
        parts = [*(f"**Contaminated by `{train}`.** {text}" for train, text in task.contamination.items()), task.note]
        if text := " ".join(part for part in parts if part):
            remarks.append(f"- `{task.name}`: {text}")
    same = {remark.partition(": ")[2] for remark in remarks}
    if len(same) == 1 and len(remarks) > 1:
        remarks = [f"- all of them: {same.pop()}"]
    return [*remarks, ""] if remarks else []


def _places(members: list[Task]) -> list[str]:
    """Where each split lies; nothing for what is generated."""
    rows = [
        _place(task, split, here)
        for task in members
        for split, here in task.splits.items()
        if not (here.source or "").startswith(STARTER)
    ]
    head = ["| split | JSONL layout | LLM-Adapters | without a folder |", "|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def _place(task: Task, split: str, here: Split) -> str:
    jsonl = f"`{here.jsonl}`" if here.jsonl else ""
    part = f" ({here.jsonl_records:,} records)" if here.jsonl_records else ""
    others = (f"`{path}`" if path else "" for path in (here.adapters, here.source))
    return f"| `{task.name}` {split} | {jsonl}{part} | {' | '.join(others)} |"


def _protocol(protocol: protocols.Protocol) -> str:
    chosen = ", ".join(f"`{key}` {_shown(value)}" for key, value in protocol.choices.items())
    return f"- **`{protocol.name}`**, {protocol.title}. {protocol.about}\n  {chosen}.\n"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(tasks_page(), end="")
