import math

import numpy as np
import pytest

from linchain.evaluation.scores import mean_loss, score, wilson


def test_wilson_equals_statsmodels():
    # statsmodels.stats.proportion.proportion_confint(count, nobs, method="wilson")
    assert wilson(8, 10) == pytest.approx((0.4901624715366147, 0.9433178485456247))
    assert wilson(0, 20) == pytest.approx((0.0, 0.16112515999567748))
    assert wilson(20, 20) == pytest.approx((0.8388748400043225, 1.0))


def test_loss_is_weighted_by_tokens():
    rows = [{"loss": 1.0, "tokens": 1}, {"loss": 3.0, "tokens": 3}]
    assert mean_loss(rows) == 2.5
    loss, perplexity = score("loss", rows)
    assert (loss.value, loss.low, loss.high, loss.n) == (2.5, 1.0, 3.0, 2)
    assert perplexity.value == pytest.approx(math.exp(2.5))


def test_a_classifiers_loss_is_a_mean_over_examples_without_perplexity():
    (loss,) = score("loss", [{"loss": 1.0}, {"loss": 2.0}])
    assert (loss.name, loss.value) == ("loss", 1.5)


def test_bootstrap_covers_a_known_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    (loss,) = score("loss", [{"loss": value} for value in values])
    half = 1.96 * values.std() / math.sqrt(400)
    assert (loss.high - loss.low) / 2 == pytest.approx(half, rel=0.1)


def test_correlations_are_taken_from_labels_and_predictions():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(2)
    labels, guesses = generator.integers(3, size=(2, 200))
    guesses = np.where(generator.random(200) < 0.5, labels, guesses)
    rows = [{"label": int(label), "prediction": int(guess)} for label, guess in zip(labels, guesses, strict=True)]
    (found,) = score("matthews", rows)
    assert found.value == pytest.approx(sklearn.matthews_corrcoef(labels, guesses))
    assert found.low < found.value < found.high
    stats = pytest.importorskip("scipy.stats")
    found, ranked = score("pearson", rows)
    assert found.value == pytest.approx(np.corrcoef(labels, guesses)[0, 1])
    assert (ranked.name, ranked.value) == ("spearman", pytest.approx(stats.spearmanr(labels, guesses).statistic))


def test_exact_match_is_shown_in_percent():
    (exact,) = score("exact_match", [{"correct": True}, {"correct": False}])
    assert exact.shown() == ("50.0 %", "9.5 to 90.5")


def exact(task, corrects):
    return [{"task": task, "correct": correct} for correct in corrects]


def test_each_task_is_scored_by_itself_and_the_mean_weighs_them_equally():
    rows = exact("gsm8k", [True] * 30 + [False] * 10) + exact("svamp", [True] * 200 + [False] * 600)
    one, other, mean = score("exact_match", rows)
    assert [(found.task, found.value, found.n) for found in (one, other)] == [("gsm8k", 0.75, 40), ("svamp", 0.25, 800)]
    assert (mean.task, mean.name, mean.value, mean.n) == ("mean", "exact_match", 0.5, 840)
    # the variance of a mean of two independent shares
    half = 1.96 * math.sqrt(0.75 * 0.25 / 40 + 0.25 * 0.75 / 800) / 2
    assert (mean.high - mean.low) / 2 == pytest.approx(half, rel=0.05)


def test_tasks_with_different_metrics_are_each_scored_by_their_own():
    generator = np.random.default_rng(3)
    stsb = [{"task": "stsb", "label": x, "prediction": x + y, "loss": 1.0} for x, y in generator.normal(size=(50, 2))]
    found = score("auto", stsb + exact("gsm8k", [True, False]))
    assert [(one.task, one.name) for one in found] == [
        ("stsb", "pearson"),
        ("stsb", "spearman"),
        ("gsm8k", "exact_match"),
        ("mean", "mean"),
    ]
    assert found[-1].value == pytest.approx((found[0].value + 0.5) / 2)


def test_a_loss_is_not_averaged_with_what_is_better_when_higher():
    rows = [{"task": "wikitext", "loss": 2.0, "tokens": 3}, *exact("gsm8k", [True, False])]
    assert [one.name for one in score("auto", rows)] == ["loss", "perplexity", "exact_match"]


def test_rows_of_one_task_have_no_mean():
    (found,) = score("exact_match", exact("gsm8k", [True]))
    assert found.task == "gsm8k"
