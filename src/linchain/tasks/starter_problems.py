"""The starter's word problems, generated: each kind with its training and test problems, which share nothing."""

from __future__ import annotations

from linchain.starter.word_problems import kinds
from linchain.tasks.records import STARTER_SIZES
from linchain.tasks.task import Split, Task

TASKS = tuple(
    Task(
        name=f"starter_{kind}",
        title=f"Word problems: {kind}",
        family="starter_problems",
        metric="exact_match",
        splits={split: Split(records, source=f"starter:{kind}") for split, records in STARTER_SIZES.items()},
        licence="Apache-2.0 (ours)",
        answer="number",
        max_new_tokens=48,
        note="A test problem shares no name, no number fact and no whole wording with the training problems. More are "
        "generated where a limit asks for more.",
    )
    for kind in kinds()
)
