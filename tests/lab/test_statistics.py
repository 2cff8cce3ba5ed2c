import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import proportion_effectsize
from statsmodels.stats.weightstats import ttest_ind

from linchain.evaluation.resampling import bootstrap, mean
from linchain.lab.statistics import (
    bootstrap_p,
    examples_needed,
    holm,
    mcnemar,
    seeds_needed,
    smallest_difference,
    welch,
)

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)
answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)
scores = st.lists(st.floats(-10, 10).map(lambda value: round(value, 3)), min_size=2, max_size=6)


@given(answers)
def test_mcnemar_equals_statsmodels_and_is_symmetric(pairs):
    first, second = np.array(pairs).T
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert mcnemar(first, second) == pytest.approx(min(1.0, statsmodels_mcnemar(table, exact=True).pvalue))
    assert mcnemar(first, second) == mcnemar(second, first)
    assert mcnemar(first, first) == 1.0


@settings(max_examples=6)  # statsmodels takes its time
@given(p_values)
def test_holm_equals_statsmodels_and_never_lowers_a_p_value(raw):
    adjusted = holm(raw)
    np.testing.assert_allclose(adjusted, multipletests(raw, method="holm")[1])
    assert all(low <= high <= 1 for low, high in zip(raw, adjusted, strict=True))
    order = np.argsort(raw)
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(scores, scores)
def test_welch_equals_statsmodels_and_is_symmetric(first, second):
    found = welch(first, second)
    assert found == pytest.approx(welch(second, first))
    if min(np.ptp(first), np.ptp(second)) > 0:
        assert found == pytest.approx(ttest_ind(first, second, usevar="unequal")[1], abs=1e-9)


def test_welch_at_its_limits():
    assert welch([0.5], [0.6, 0.7]) is None
    assert welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert welch([0.5, 0.5], [0.75, 0.75]) == 0.0


def test_with_an_error_over_examples_welch_goes_from_its_own_test_to_a_normal_one():
    first, second = [0.50, 0.52, 0.51], [0.55, 0.58, 0.54]
    assert welch(first, second, 1e-9) == pytest.approx(welch(first, second))
    assert welch(first, second, 0.02) > welch(first, second)
    apart = np.mean(second) - np.mean(first)
    assert welch(first, second, 2.0) == pytest.approx(2 * stats.norm.sf(apart / 2.0), rel=1e-3)
    assert welch([0.5, 0.5], [0.75, 0.75], 0.1) == pytest.approx(2 * stats.norm.sf(2.5))


def differences(first, second):
    replicates = bootstrap(mean(np.stack([first, second]).astype(float)), len(first))
    return replicates[:, 0] - replicates[:, 1]


@given(answers)
def test_the_bootstrap_of_equal_methods_finds_nothing(pairs):
    first, _ = np.array(pairs).T
    assert not differences(first, first).any()
    assert bootstrap_p(differences(first, first)) == 1.0


@given(answers)
def test_the_bootstraps_p_is_symmetric_and_agrees_with_its_interval(pairs):
    first, second = np.array(pairs).T
    found = differences(first, second)
    p = bootstrap_p(found)
    assert p == bootstrap_p(-found)
    low, high = np.quantile(found, [0.024, 0.976])  # a hair outside and inside of 2.5 %: quantiles are interpolated
    assert p > 0.047 or low > 0 or high < 0
    inner = np.quantile(found, [0.026, 0.974])
    assert p < 0.053 or inner[0] <= 0 <= inner[1]


def test_the_bootstraps_p_is_never_zero():
    assert bootstrap_p(np.ones(9_999)) == 2 / 10_000


def test_a_difference_that_no_resample_doubts_is_found_among_many_pairs():
    first = np.arange(300) < 200
    second = first ^ (np.arange(300) < 40) ^ (np.arange(300) >= 292)
    p, exact = bootstrap_p(differences(first, second)), mcnemar(first, second)
    assert exact < 1e-5
    assert exact / 5 < p < exact * 5
    assert holm([p] + [1.0] * 252)[0] < 0.05


def test_resamples_in_which_the_difference_is_no_number_do_not_make_it_smaller():
    assert bootstrap_p(np.repeat([np.nan, 1.0], [9_000, 999])) == 2 / 1_000
    assert bootstrap_p(np.full(9, np.nan)) == 1.0


def test_with_many_discordant_examples_bootstrap_and_mcnemar_agree():
    generator = np.random.default_rng(0)
    first = generator.random(2000) < 0.6
    second = np.where(generator.random(2000) < 0.7, first, generator.random(2000) < 0.56)
    exact = mcnemar(first, second)
    assert 0.001 < exact < 0.2
    assert bootstrap_p(differences(first, second)) == pytest.approx(exact, rel=0.2)


def test_false_alarms_of_the_paired_bootstrap_are_as_rare_as_it_says():
    """Means of three seeds that are as good as each other, 300 examples, a fresh test set each time."""
    generator = np.random.default_rng(1)
    hardness = generator.random((200, 300, 1))
    first, second = ((generator.random((200, 300, 3)) < hardness).mean(2) for _ in range(2))
    replicates = bootstrap(mean(first - second), 300)
    alarms = [bootstrap_p(column) < 0.05 for column in replicates.T]
    assert 0.02 <= np.mean(alarms) <= 0.085


def test_what_gsm8k_can_separate():
    assert smallest_difference(1319, 0.244) == pytest.approx(0.038, abs=5e-5)
    assert smallest_difference(1319) == pytest.approx(0.0544, abs=5e-5)
    assert 1.96 * math.sqrt(2 * 0.25 / 1319) == pytest.approx(0.0382, abs=5e-5)


def test_the_worst_case_is_what_statsmodels_says_of_independent_shares():
    found = smallest_difference(1319)
    effect = proportion_effectsize(0.5 + found / 2, 0.5 - found / 2)
    assert NormalIndPower().power(effect, 1319, 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("n", "discordant"), [(300, 0.3), (1319, 0.1)])
def test_the_smallest_difference_is_found_four_times_in_five(n, discordant):
    difference = smallest_difference(n, discordant)
    wins = np.random.default_rng(2).multinomial(
        n, [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant], size=500
    )
    found = [stats.binomtest(a, a + b).pvalue < 0.05 for a, b, _ in wins.tolist()]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)  # a little below: the exact test is conservative


def test_four_times_the_examples_resolve_half_the_difference():
    assert examples_needed(1000, 0.04, 0.02) == 4000


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_seeds_needed_is_what_statsmodels_says(effect):
    expected = TTestIndPower().solve_power(effect, alpha=0.05, power=0.8)
    assert abs(seeds_needed(1.0, effect) - math.ceil(expected)) <= 1
