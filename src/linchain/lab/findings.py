"""What a comparison says, as plain values: `linchain.lab.analysis` makes them, summary.json and the report show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linchain.lab.choice import CurvePoint, Edge

ONLY_TEST = "test"  # what the test is called where its examples are of no task
Range = tuple[float, float, float]  # median, lowest, highest


@dataclass(frozen=True)
class SeedScore:
    """A final run's score."""

    seed: int
    value: float


@dataclass(frozen=True)
class Difference:
    """A contestant's score less that of `against`, on the same examples.

    low, high: 95 % interval over examples, paired.
    p: two-sided, over examples, by `test`. seed_p: over seeds, Welch's test; None where either has one seed only.
    p_both: over other seeds and examples together (`linchain.lab.statistics.welch`), never below p. In a
        comparison with one seed for all only the examples can be asked: p_both is p, and what differs are runs, not yet
        methods. Where others have several seeds, one seed proves nothing: 1.
    p_holm: p_both, adjusted by Holm for all contestants that are tested against this one.
    distinguishable: p_holm < 0.05. Of equal methods any is called so in about 5 % of comparisons, however many they are.
    """

    against: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    seed_p: float | None
    p_both: float
    distinguishable: bool


@dataclass(frozen=True)
class Line:
    """A contestant on one test.

    value: mean over seeds, None where no run has finished; low, high: 95 % interval over test examples, drawn whole with
        every seed's answer to them (percentile bootstrap; Wilson's where it has no width at all).
    seed_sd: standard deviation between seeds (n - 1), None for one seed.
    from_best: the best line's score less this one's, adjusted for all pairs of contestants: the best one was not known
        beforehand. None for the best line itself, and without a score.
    level_with_best: the best line, and all that are not distinguishable from it.
    """

    contestant: str
    learning_rate: float | None
    edge: Edge | None
    curve: tuple[CurvePoint, ...]
    seeds: tuple[SeedScore, ...]
    value: float | None
    low: float | None
    high: float | None
    seed_sd: float | None
    difference: Difference | None
    from_best: Difference | None
    level_with_best: bool


@dataclass(frozen=True)
class Table:
    """All contestants on one test by one metric, best first; those without a score last.

    test: the task, ONLY_TEST where the examples are of none, "mean" for the mean over tasks.
    n: examples.
    resolvable: the difference that two methods must have before this test set shows it in 80 % of cases, at 5 %: 2.80
        standard errors of the paired differences found here (median over pairs), from the examples alone, and for one pair
        by itself: p_holm finds it less often. Without such differences the worst case of two shares, or None. `resolution`
        says it in words.
    resolvable_with_seeds: the same with the spread between the seeds there are; None with one seed each. A lower bound:
        that few seeds tell the spread itself badly is left out.
    most_frequent: the share of the most frequent label, which the same answer to every example would score; None where the
        metric is no accuracy.
    one_answer: contestants of which a final run gave the same answer to every example.
    """

    test: str
    metric: str
    higher_is_better: bool
    n: int
    budget: int | None
    lines: tuple[Line, ...]
    resolvable: float | None
    resolvable_with_seeds: float | None
    resolution: str
    most_frequent: float | None
    one_answer: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a contestant costs: (median, lowest, highest) of its `runs` runs of the stage `source`.

    "cost" runs were alone on the machine; "final" ones stand in where there are none, and may have had neighbours.
    memory_bytes: the highest in a step, less what was taken before the first one.
    train_seconds: median of whole final runs at this budget, evaluation included.
    """

    contestant: str
    budget: int | None
    trainable: int
    total: int
    seconds_per_step: Range | None
    memory_bytes: Range | None
    train_seconds: float | None
    source: Literal["cost", "final"]
    runs: int


@dataclass(frozen=True)
class Failure:
    """A run that ended without a score, of any stage."""

    contestant: str
    stage: str
    budget: int | None
    learning_rate: float
    seed: int | None
    error: str


@dataclass(frozen=True)
class Analysis:
    """`verdict` depends on scores and parameters only; `measured` says which of the best is fast and small, and is of this
    machine and day, as the times in `costs` are."""

    tables: tuple[Table, ...]
    verdict: tuple[str, ...]
    measured: tuple[str, ...]
    costs: tuple[Cost, ...]
    failures: tuple[Failure, ...]
