import doctest

import numpy as np
import pytest

from linchain.lab import verdict
from linchain.lab.analysis import analyse
from linchain.lab.verdict import resolution
from tests.lab.fake import FakeTrial, comparison, drawn, right

HARDNESS = np.random.default_rng(0).normal(size=400) * 0.5


def runs(contestant, skill, parameters=1000, seeds=3, number=0, **options):
    generator = np.random.default_rng([number, seeds])
    return [
        FakeTrial(
            contestant, seed=seed, rows=right(drawn(generator, skill, HARDNESS)), parameters=parameters, **options
        )
        for seed in range(1, seeds + 1)
    ]


def sentences(*trials, seeds=(1, 2, 3), **options):
    analysis = analyse(comparison(trials, seeds=seeds, **options))
    return list(analysis.verdict), list(analysis.measured)


def test_a_winner_is_named_first():
    (first, *others), _ = sentences(*runs("lora", 0.0), *runs("bone", 0.5, number=1))
    assert first.startswith("Use bone: it scored best, ")
    assert first.endswith("every other contestant is distinguishable from it.")
    assert any(one.startswith("Better than the reference lora, in points: bone (+") for one in others)
    assert not any("To separate" in one for one in others)


def test_a_winner_that_is_not_shown_to_be_one_comes_with_what_is_smaller():
    trials = [*runs("lora", 0.0, 5000), *runs("big", 0.02, 9000, number=1), *runs("small", 0.0, 500, number=2)]
    found, _ = sentences(*trials)
    assert found[0] == "Stay with lora, the reference: nothing is shown to be better."
    assert found[1].startswith("big scored best, ")
    assert found[1].endswith(", but is not shown to be better than any other.")
    assert found[2].startswith("small trains 500 parameters instead of 9,000 and scored ")
    assert found[2].endswith(" worse: it is not shown to be worse, nor to be as good.")
    assert any(one.startswith("To separate ") and "at least" in one and "test examples" in one for one in found)


def test_what_cannot_be_told_apart_for_want_of_examples_is_not_recommended():
    """40 examples separate nobody; the small one scored far below the best all the same."""
    found, _ = sentences(
        *(
            FakeTrial(label, seed=1, rows=right(np.arange(40) % 20 < hits), parameters=size)
            for label, hits, size in (("lora", 12, 100), ("tiny", 10, 1))
        ),
        seeds=(1,),
    )
    assert found[0].startswith("Use lora: ")
    assert found[0].endswith(", but is not shown to be better than tiny.")
    assert found[1] == (
        "tiny trains 1 parameters instead of 100 and scored 10.0 points worse: it is not shown to be worse, nor to be as good."
    )


def test_what_is_shown_to_be_better_is_used_before_what_only_scored_best():
    """wild scatters between seeds, and scored best; bone is surely better than lora."""
    wild = [
        FakeTrial("wild", seed=seed, rows=right(drawn(np.random.default_rng(seed), skill, HARDNESS)))
        for seed, skill in ((1, 0.2), (2, 3.0), (3, 3.0))
    ]
    found, _ = sentences(*runs("lora", 0.0), *runs("bone", 0.6, number=1), *wild)
    assert found[0].startswith("Use bone: it is shown to be better than the reference lora, and scored ")
    assert found[1].startswith("wild scored best, ")


def test_many_that_are_level_are_named_in_a_sentence_of_their_own():
    level = [one for number in range(1, 6) for one in runs(f"twin-{number}", 0.5, number=number)]
    found, _ = sentences(*level, *runs("lora", -0.5))
    assert found[0].endswith(", but is not shown to be better than 4 of the 5 others.")
    assert found[1].startswith("Not distinguishable from twin-")
    assert found[1].count("twin-") == 5


def test_what_is_worse_than_the_reference_is_said_to_be():
    found, _ = sentences(*runs("lora", 0.5), *runs("bone", 0.0, number=1))
    assert found[0].startswith("Use lora: ")
    assert any(one.startswith("Worse than lora, in points: bone (−") for one in found)


def test_with_one_seed_the_differences_are_said_to_be_between_runs():
    found, _ = sentences(*runs("lora", 0.0, seeds=1), *runs("bone", 0.5, seeds=1, number=1), seeds=(1,))
    assert (
        "With one seed each these are differences between runs: what another seed would have given is not known."
        in found
    )


def test_equal_scores_leave_nothing_to_separate():
    twins = [FakeTrial(label, seed=1, rows=right(HARDNESS < 0)) for label in ("lora", "bone")]
    worse = FakeTrial("miss", seed=1, rows=right(HARDNESS < -1))
    found, _ = sentences(*twins, worse, seeds=(1,))
    assert "lora and bone scored the same: nothing says how many examples would separate them." in found


def test_where_all_scored_the_same_nobody_is_named():
    none = [FakeTrial(label, seed=1, rows=right([False] * 20)) for label in ("lora", "bone")]
    found, _ = sentences(*none, seeds=(1,))
    assert len(found) == 1
    assert found[0].startswith(
        "Nothing can be said: all 2 contestants scored the same, 0.0 % accuracy on the test split"
    )


def test_what_separates_a_pair_goes_by_its_own_error():
    """lora and bone answer alike but for 14 examples, the others by chance: the median pair is much noisier than theirs."""
    first = np.arange(400) < 200
    close = first ^ (np.arange(400) < 9) ^ (np.arange(400) >= 395)
    far, other = (np.random.default_rng(seed).permuted(np.arange(400) < 150) for seed in (0, 1))
    found, _ = sentences(
        *(
            FakeTrial(label, seed=1, rows=right(answers))
            for label, answers in (("lora", first), ("bone", close), ("miss", far), ("dora", other))
        ),
        seeds=(1,),
    )
    said = next(one for one in found if one.startswith("To separate lora and bone"))
    assert said.endswith(" test examples.")
    needed = int(said.split("at least ")[1].split()[0].replace(",", ""))
    error = np.std(first.astype(float) - close) / 400**0.5
    assert needed == pytest.approx(400 * (2.80 * error / abs(first.mean() - close.mean())) ** 2, rel=0.1)


def test_cautions_come_last():
    search = [
        FakeTrial("lora", stage="search", learning_rate=rate, rows=right([True] * hits + [False] * 10))
        for rate, hits in ((1e-4, 5), (3e-4, 7))
    ]
    failed = FakeTrial("bone", seed=1, error="out of memory")
    found, _ = sentences(*search, *runs("lora", 0.0, seeds=2), failed)
    assert found[0].startswith("lora is the only contestant with a score: ")
    assert found[1:] == [
        "At an edge of the learning rates searched, so that a wider grid may do better: lora.",
        "Not all of the 3 seeds have a score: lora (2) and bone (0).",
        "1 run failed (bone: final); the errors are listed.",
    ]


def classified(contestant, seed, answers, labels):
    rows = [
        {"id": str(place), "label": label, "prediction": answer, "correct": label == answer, "loss": 0.7}
        for place, (label, answer) in enumerate(zip(labels, answers, strict=True))
    ]
    return FakeTrial(contestant, seed=seed, rows=rows)


def test_models_that_learned_nothing_are_said_to_have():
    labels = ["yes"] * 55 + ["no"] * 45
    constant = [classified("lora", 1, ["no"] * 100, labels), classified("lora", 2, ["yes"] * 100, labels)]
    guesses = [
        classified("bone", seed, ["yes"] * 54 + ["no"] * (1 + seed) + ["yes"] * (45 - seed), labels) for seed in (1, 2)
    ]
    found, _ = sentences(*constant, *guesses, seeds=(1, 2))
    assert found[2:4] == [
        "Nobody is shown to be better than the same answer to every example, which scores 55.0 %.",
        "A final run gave the same answer to every example: lora. Such a run has learned nothing that this test shows.",
    ]


def test_models_that_learned_something_are_not():
    labels = ["yes"] * 55 + ["no"] * 45
    trials = [
        classified(name, 1, ["yes"] * yes + ["no"] * (100 - yes), labels) for name, yes in (("lora", 50), ("bone", 45))
    ]
    found, _ = sentences(*trials, seeds=(1,))
    assert not any("same answer" in one for one in found)


def test_without_any_score_nothing_is_said():
    found, measured = sentences(FakeTrial("lora", seed=1, error="out of memory"))
    assert found == ["Nothing can be said yet: no final run has a score."]
    assert measured == []


def test_other_budgets_have_a_sentence_each():
    trials = [
        trial
        for budget, skill in ((100, -0.5), (2000, 0.5))
        for trial in (
            *runs("lora", 0.0, budget=budget),
            *runs("bone", skill, number=1, budget=budget),
        )
    ]
    found, _ = sentences(*trials, budgets=(100, 2000))
    assert found[0].startswith("Use bone: ")
    assert found[-1].startswith("After 100 steps lora scored best: ")


def test_what_is_fast_and_small_is_said_apart_from_the_verdict():
    trials = [*runs("lora", 0.0, 5, seconds_per_step=0.2), *runs("bone", 0.0, 9, number=1, seconds_per_step=0.1)]
    found, measured = sentences(*trials)
    assert measured == [
        "Of the contestants level with the best, bone takes the least time a step: 100 ms.",
        "Of the contestants level with the best, lora needs the least memory: 5 MiB.",
        "Times and memory are of the final runs, which may have had neighbours on the machine.",
    ]
    slower = [*runs("lora", 0.0, 5, seconds_per_step=0.2), *runs("bone", 0.0, 9, number=1, seconds_per_step=7.0)]
    assert sentences(*slower)[0] == found


def test_what_was_measured_once_is_not_called_the_least():
    once = [
        *runs("lora", 0.0, seeds=1, seconds_per_step=0.2),
        *runs("bone", 0.0, seeds=1, number=1, seconds_per_step=0.1),
    ]
    assert sentences(*once, seeds=(1,))[1] == [
        "Times and memory are of the final runs, which may have had neighbours on the machine."
    ]


@pytest.mark.parametrize(
    ("n", "resolvable", "metric", "said"),
    [
        (
            1319,
            0.0381,
            "exact_match",
            "1,319 examples cannot reliably separate methods closer than 3.8 points: a true diff",
        ),
        (
            1,
            0.5,
            "pearson",
            "1 example cannot reliably separate methods closer than 0.500 in Pearson’s correlation: a true",
        ),
        (
            200,
            0.0123,
            "loss",
            "200 examples cannot reliably separate methods closer than 0.0123 in loss: a true difference",
        ),
        (
            9000,
            0.0004,
            "accuracy",
            "9,000 examples cannot reliably separate methods closer than 0.04 points: a true differ",
        ),
        (200, None, "loss", "200 examples: what they can separate is not known"),
    ],
)
def test_the_resolution_in_words(n, resolvable, metric, said):
    assert resolution(n, resolvable, metric).startswith(said)


def test_a_difference_below_the_resolution_may_be_found_and_the_resolution_does_not_deny_it():
    # 59 of 400 answers are right in one run only, 39 of them in bone's: p 0.018
    first = np.arange(400) < 200
    second = first ^ (np.arange(400) >= 380) ^ (np.arange(400) < 39)
    found, _ = sentences(
        FakeTrial("lora", seed=1, rows=right(second)), FakeTrial("bone", seed=1, rows=right(first)), seeds=(1,)
    )
    assert any(one.startswith("Better than the reference lora, in points: bone (+4.7)") for one in found)
    said = next(one for one in found if "reliably" in one)
    assert "closer than 5.3 points: a true difference of that size is found in four of five such comparisons" in said


def test_that_the_best_was_picked_by_its_own_test_is_said():
    found, _ = sentences(*runs("lora", 0.0), *runs("bone", 0.5, number=1))
    said = "The best of 2 was picked by the test that it is scored by, so its score is somewhat flattering."
    assert said in found


def test_the_mean_over_tasks_is_called_one():
    trials = [
        FakeTrial(
            label, seed=1, rows=[*right(at > HARDNESS, task="piqa"), *right(at - 0.1 > HARDNESS, task="arc_easy")]
        )
        for label, at in (("lora", 0.0), ("bone", 0.4))
    ]
    found, _ = sentences(*trials, seeds=(1,))
    assert " accuracy as the mean over the tasks, each weighted equally (95 % interval " in found[0]


def test_the_module_examples_hold():
    assert doctest.testmod(verdict).failed == 0
