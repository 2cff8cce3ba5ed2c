"""Plain text, scored by its loss and perplexity."""

from __future__ import annotations

from linchain.tasks.task import Row, Split, Task


def _not_empty(row: Row) -> Row | None:
    return row if row["text"].strip() else None


TASKS = (
    Task(
        name="wikitext",
        title="WikiText-2",
        family="language_modelling",
        metric="loss",
        splits={
            "train": Split(36718, "lm/wikitext.train.jsonl", 800, source="Salesforce/wikitext:wikitext-2-raw-v1:train"),
            "validation": Split(3760, source="Salesforce/wikitext:wikitext-2-raw-v1:validation"),
            "test": Split(4358, "lm/wikitext.test.jsonl", 200, source="Salesforce/wikitext:wikitext-2-raw-v1:test"),
        },
        licence="CC BY-SA 3.0, GFDL",
        from_hub=_not_empty,
        note="One loss for each record: from the Hub for each line but the empty ones, about a third of those counted here. "
        "Published perplexities are of the joined text, in windows, and compare with none of these. The JSONL files are a "
        "sample of 1,000 passages split by us.",
    ),
    Task(
        name="tinystories",
        title="TinyStories",
        family="language_modelling",
        metric="loss",
        splits={
            "train": Split(2119719, "lm/tinystories.train.jsonl", 800, source="roneneldan/TinyStories:train"),
            "test": Split(21990, "lm/tinystories.test.jsonl", 200, source="roneneldan/TinyStories:validation"),
        },
        licence="CDLA-Sharing-1.0",
        from_hub=_not_empty,
        note="The JSONL files are a sample of 1,000 stories split by us.",
    ),
)
