import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linchain.evaluation import resampling
from linchain.evaluation.resampling import bootstrap, interval, matthews, mean, pearson, spearman, value

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(4, size=60)
GUESSES = np.where(GENERATOR.random((3, 60)) < 0.5, LABELS, GENERATOR.integers(4, size=(3, 60)))
WEIGHTS = GENERATOR.integers(1, 9, size=(3, 60)).astype(float)


def counts_of(drawn, n=60):
    return np.bincount(drawn, minlength=n).astype(float)


draws = st.lists(st.integers(0, 59), min_size=60, max_size=60)


@given(draws)
def test_counts_give_what_the_drawn_rows_give(drawn):
    stats = pytest.importorskip("scipy.stats")
    sklearn = pytest.importorskip("sklearn.metrics")
    x, y, counts = LABELS[drawn], GUESSES[:, drawn], counts_of(drawn)
    noisy = GUESSES + np.linspace(0, 1, 60)
    np.testing.assert_allclose(mean(WEIGHTS)(counts), WEIGHTS[:, drawn].mean(1))
    weighted = [np.average(row[drawn], weights=weight[drawn]) for row, weight in zip(GUESSES, WEIGHTS, strict=True)]
    np.testing.assert_allclose(mean(GUESSES, WEIGHTS)(counts), weighted)
    if len(set(x)) > 1:
        np.testing.assert_allclose(
            pearson(LABELS, noisy)(counts), [stats.pearsonr(x, row[drawn])[0] for row in noisy], atol=1e-12
        )
        np.testing.assert_allclose(
            spearman(LABELS, noisy)(counts), [stats.spearmanr(x, row[drawn])[0] for row in noisy]
        )
        np.testing.assert_allclose(
            matthews(LABELS, GUESSES)(counts), [sklearn.matthews_corrcoef(x, row) for row in y], atol=1e-12
        )


@pytest.mark.parametrize("correlation", [pearson, spearman, matthews])
def test_a_side_without_spread_correlates_with_nothing(correlation):
    flat = np.full((1, 60), 0.1)
    assert value(correlation(LABELS, flat), 60) == [0.0]
    assert value(correlation(flat[0], GUESSES[:1]), 60) == [0.0]
    one = counts_of([7] * 60)
    assert correlation(LABELS, GUESSES[:1])(one) == [0.0]
    assert correlation(LABELS + 0.3, GUESSES[:1] + 0.7)(one) == [0.0]


def test_classes_may_be_words():
    names = np.array(["north", "east", "south", "west"])
    assert value(matthews(names[LABELS], names[GUESSES]), 60) == pytest.approx(value(matthews(LABELS, GUESSES), 60))


def test_all_runs_are_resampled_alike_and_chunks_change_nothing(monkeypatch):
    values = np.stack([WEIGHTS[0], WEIGHTS[0] + 1, WEIGHTS[1]])
    replicates = bootstrap(mean(values), 60)
    assert replicates.shape == (resampling.RESAMPLES, 3)
    np.testing.assert_allclose(replicates[:, 1] - replicates[:, 0], 1)
    monkeypatch.setattr(resampling, "_CHUNK", 7 * 60)
    np.testing.assert_allclose(bootstrap(mean(values), 60), replicates)
    assert not np.allclose(bootstrap(mean(values), 60, seed=1), replicates)


def test_the_bootstrap_has_the_known_standard_error():
    values = GENERATOR.normal(size=(1, 400))
    low, high = interval(bootstrap(mean(values), 400)[:, 0])
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(400), rel=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth, n, samples = 0.7, 200, np.random.default_rng(3).random((400, 200)) < 0.7
    replicates = bootstrap(mean(samples.astype(float)), n)
    covered = [low <= truth <= high for low, high in map(interval, replicates.T)]
    assert 0.92 <= np.mean(covered) <= 0.98
