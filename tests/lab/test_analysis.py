import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from linchain.errors import LinchainError
from linchain.evaluation.scores import score
from linchain.lab import statistics
from linchain.lab.analysis import analyse
from linchain.lab.choice import NOT_A_NUMBER
from linchain.lab.samples import BOOTSTRAP, MCNEMAR
from tests.lab import synthetic
from tests.lab.fake import RATE, FakeTrial, comparison, drawn, right

N = 200
HARDNESS = np.random.default_rng(0).normal(size=N) * 0.5


def seeds_of(contestant, skill, seeds=3, spread=0.0, start=0, **options):
    generator = np.random.default_rng([start, len(contestant)])
    return [
        FakeTrial(contestant, seed=seed, rows=right(drawn(generator, skill, HARDNESS, spread)), **options)
        for seed in range(1, seeds + 1)
    ]


def table_of(*trials, **options):
    (table,) = analyse(comparison(trials, **options)).tables
    return table


def line_of(table, label):
    return next(line for line in table.lines if line.contestant == label)


def test_a_line_holds_the_runs_own_scores():
    trials = seeds_of("lora", 0.0)
    table = table_of(*trials, seeds=(1, 2, 3))
    (line,) = table.lines
    own = [score("accuracy", trial.rows)[0].value for trial in trials]
    assert (table.test, table.metric, table.n, table.higher_is_better) == ("test", "accuracy", N, True)
    assert [seed.seed for seed in line.seeds] == [1, 2, 3]
    assert [seed.value for seed in line.seeds] == pytest.approx(own)
    assert line.value == pytest.approx(np.mean(own))
    assert line.seed_sd == pytest.approx(np.std(own, ddof=1))
    assert line.low < line.value < line.high
    assert line.difference is None
    assert line.level_with_best
    assert line.learning_rate == RATE


@pytest.mark.parametrize("metric", ["pearson", "matthews", "loss"])
def test_one_runs_interval_is_the_one_in_its_result(metric):
    generator = np.random.default_rng(1)
    rows = [
        {"id": index, "label": int(label), "prediction": int(label ^ (generator.random() < 0.2)), "loss": label + 0.5}
        for index, label in enumerate(generator.integers(2, size=50))
    ]
    line = analyse(comparison([FakeTrial("lora", seed=1, rows=rows, metric=metric)])).tables[0].lines[0]
    own = score(metric, rows)[0]
    assert (line.value, line.low, line.high) == pytest.approx((own.value, own.low, own.high))


def test_single_runs_are_compared_by_mcnemars_exact_test():
    trials = [*seeds_of("lora", 0.0, 1), *seeds_of("bone", 0.4, 1, start=1)]
    found = line_of(table_of(*trials), "bone").difference
    first, second = (np.array([row["correct"] for row in trial.rows]) for trial in trials)
    assert found.test == MCNEMAR
    assert found.p == found.p_both == found.p_holm == statistics.mcnemar(first, second)
    assert found.seed_p is None
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert found.low < found.value < found.high
    assert found.distinguishable


def test_several_seeds_are_compared_over_examples_over_seeds_and_over_both():
    trials = [*seeds_of("lora", 0.0, spread=0.05), *seeds_of("bone", 0.4, spread=0.05, start=1)]
    table = table_of(*trials, seeds=(1, 2, 3))
    found, (bone, lora) = line_of(table, "bone").difference, table.lines
    assert found.test == BOOTSTRAP
    assert found.seed_p == statistics.welch([one.value for one in bone.seeds], [one.value for one in lora.seeds])
    assert found.p <= found.p_both == found.p_holm
    assert found.distinguishable
    assert bone.level_with_best
    assert not lora.level_with_best


def test_equal_runs_differ_by_nothing():
    trials = seeds_of("lora", 0.0)
    table = table_of(*trials, *(replace(trial, contestant="copy") for trial in trials), seeds=(1, 2, 3))
    found = line_of(table, "copy").difference
    assert (found.value, found.low, found.high, found.p, found.p_holm) == (0, 0, 0, 1, 1)
    assert not found.distinguishable
    assert all(line.level_with_best for line in table.lines)


def test_a_difference_that_seeds_explain_is_not_called_one():
    """Each example is decided by the seed alone: over examples the difference is plain, over seeds it is not."""
    lucky = [right([True] * 120 + [False] * 80), right([True] * 160 + [False] * 40)]
    others = [right([True] * 100 + [False] * 100), right([True] * 118 + [False] * 82)]
    trials = [
        FakeTrial(label, seed=seed, rows=rows)
        for label, runs in (("lora", others), ("bone", lucky))
        for seed, rows in enumerate(runs)
    ]
    table = table_of(*trials, seeds=(0, 1))
    found = line_of(table, "bone").difference
    assert found.p < 0.001
    assert found.p_both > 0.05
    assert not found.distinguishable
    assert all(line.level_with_best for line in table.lines)


def test_p_values_are_adjusted_for_all_contestants():
    trials = [trial for number in range(5) for trial in seeds_of(f"method {'x' * number}", 0.03 * number, 1)]
    table = table_of(*trials, reference="method ")
    found = [line.difference for line in table.lines if line.difference]
    assert len(found) == 4
    assert [one.p_holm for one in found] == statistics.holm([one.p_both for one in found])


def test_lines_come_best_first_and_those_without_a_score_last():
    trials = [FakeTrial("broken", seed=1, error="diverged"), *seeds_of("lora", 0.0, 1), *seeds_of("bone", 0.3, 1)]
    table = table_of(*trials)
    assert [line.contestant for line in table.lines] == ["bone", "lora", "broken"]
    broken = table.lines[-1]
    assert (broken.value, broken.low, broken.seeds, broken.difference, broken.level_with_best) == (
        None,
        None,
        (),
        None,
        False,
    )


def test_of_losses_the_lower_is_the_better_and_perplexity_has_a_table_of_its_own():
    generator = np.random.default_rng(2)
    base = 2 + generator.random(100)
    trials = [
        FakeTrial(
            label,
            seed=1,
            metric="loss",
            rows=[{"id": index, "loss": value + more, "tokens": 10 + index} for index, value in enumerate(base)],
        )
        for label, more in (("lora", 0.0), ("bone", -0.1))
    ]
    loss, perplexity = analyse(comparison(trials)).tables
    assert (loss.metric, perplexity.metric, loss.higher_is_better) == ("loss", "perplexity", False)
    assert [line.contestant for line in loss.lines] == ["bone", "lora"]
    assert loss.lines[0].difference.value == pytest.approx(-0.1)
    assert perplexity.lines[0].value == pytest.approx(math.exp(loss.lines[0].value))
    assert loss.lines[0].difference.p == pytest.approx(2 / 10_001)


def test_several_tasks_have_a_table_each_and_one_of_their_mean():
    def rows(generator, skill):
        one, other = drawn(generator, skill, HARDNESS), drawn(generator, skill - 0.5, HARDNESS[:50])
        return right(one, task="arc_easy") + right(other, task="arc_challenge")

    generator = np.random.default_rng(3)
    trials = [
        FakeTrial(label, seed=seed, rows=rows(generator, skill))
        for label, skill in (("lora", 0.2), ("bone", 0.5))
        for seed in (1, 2)
    ]
    easy, challenge, mean = analyse(comparison(trials, seeds=(1, 2))).tables
    assert [table.test for table in (easy, challenge, mean)] == ["arc_easy", "arc_challenge", "mean"]
    assert (easy.n, challenge.n, mean.n) == (200, 50, 250)
    for label in ("lora", "bone"):
        parts = [line_of(table, label) for table in (easy, challenge)]
        whole = line_of(mean, label)
        assert whole.value == pytest.approx(np.mean([part.value for part in parts]))
        widths = [part.high - part.low for part in parts]
        assert whole.high - whole.low == pytest.approx(math.hypot(*widths) / 2, rel=0.1)
    assert line_of(mean, "bone").difference.test == BOOTSTRAP


def test_the_mean_of_one_run_is_that_of_its_result():
    rows = right(HARDNESS < 0.2, task="arc_easy") + right(HARDNESS[:60] < 0, task="piqa")
    (*_, mean) = analyse(comparison([FakeTrial("lora", seed=1, rows=rows)])).tables
    own = score("accuracy", rows)[-1]
    assert own.task == "mean"
    line = mean.lines[0]
    assert (line.value, line.low, line.high, mean.n) == pytest.approx((own.value, own.low, own.high, own.n))


def test_all_right_is_no_certainty():
    line = table_of(FakeTrial("lora", seed=1, rows=right([True] * 50))).lines[0]
    assert (line.low, line.high) == pytest.approx((0.929, 1.0), abs=0.001)


def test_the_chosen_rate_and_its_curve_are_those_of_the_search():
    searched = [
        FakeTrial("lora", stage="search", learning_rate=rate, rows=right([True] * hits + [False] * (10 - hits)))
        for rate, hits in ((1e-4, 5), (3e-4, 7))
    ]
    table = table_of(*searched, *seeds_of("lora", 0.0, 1))
    line = table.lines[0]
    assert (line.learning_rate, line.edge) == (3e-4, "high")
    assert [(point.learning_rate, point.value) for point in line.curve] == [(1e-4, 0.5), (3e-4, 0.7)]


def test_budgets_are_compared_apart():
    trials = [
        trial
        for budget, skill in ((100, 0.0), (200, 0.5))
        for trial in (*seeds_of("lora", skill, 1, budget=budget), *seeds_of("bone", 0.2, 1, budget=budget))
    ]
    first, second = analyse(comparison(trials, budgets=(100, 200))).tables
    assert (first.budget, first.lines[0].contestant) == (100, "bone")
    assert (second.budget, second.lines[0].contestant) == (200, "lora")


def test_the_resolvable_difference_of_single_runs_is_that_of_their_discordance():
    trials = [*seeds_of("lora", 0.0, 1), *seeds_of("bone", 0.02, 1, start=1)]
    table = table_of(*trials)
    first, second = (np.array([row["correct"] for row in trial.rows]) for trial in trials)
    expected = statistics.smallest_difference(N, float((first != second).mean()))
    assert table.resolvable == pytest.approx(expected, rel=0.03)
    assert table.resolvable_with_seeds is None
    assert f"separate methods closer than {100 * table.resolvable:.1f} points" in table.resolution


def test_seeds_make_the_resolvable_difference_larger():
    table = table_of(*seeds_of("lora", 0.0, spread=0.1), *seeds_of("bone", 0.0, spread=0.1, start=1), seeds=(1, 2, 3))
    spread = [line.seed_sd for line in table.lines]
    expected = math.hypot(table.resolvable, statistics.DETECTABLE * math.hypot(*spread) / math.sqrt(3))
    assert table.resolvable_with_seeds == pytest.approx(expected)


def test_a_single_contestant_has_the_worst_case():
    table = table_of(*seeds_of("lora", 0.0, 1))
    assert table.resolvable == statistics.smallest_difference(N)


def test_a_contestant_left_with_one_seed_is_told_apart_from_nobody():
    table = table_of(*seeds_of("lora", -1.0), *seeds_of("bone", 1.0, 1, start=1), seeds=(1, 2, 3))
    found = line_of(table, "bone").difference
    assert found.p < 0.01
    assert (found.p_both, found.seed_p, found.distinguishable) == (1.0, None, False)


def test_runs_on_different_examples_are_refused():
    other = [row | {"id": f"new {row['id']}"} for row in right(HARDNESS < 0)]
    with pytest.raises(LinchainError, match=r"bone/final/1 was tested on other examples than lora/final/1"):
        table_of(FakeTrial("lora", seed=1, rows=right(HARDNESS < 0)), FakeTrial("bone", seed=1, rows=other))


def test_failures_are_rows():
    failed = FakeTrial("lora", stage="search", budget=100, learning_rate=1e-2, error="the loss is not a number")
    missing = FakeTrial("lora", stage="search", learning_rate=1e-3)
    nan = FakeTrial("bone", seed=1, rows=[{"id": 0, "loss": math.nan}], metric="loss")
    analysis = analyse(comparison([failed, missing, nan]))
    assert [asdict(one) for one in analysis.failures] == [
        {
            "contestant": "lora",
            "stage": "search",
            "budget": 100,
            "learning_rate": 1e-2,
            "seed": None,
            "error": "the loss is not a number",
        },
        {
            "contestant": "bone",
            "stage": "final",
            "budget": None,
            "learning_rate": RATE,
            "seed": 1,
            "error": NOT_A_NUMBER,
        },
    ]
    assert analysis.tables == ()


def test_costs_are_of_cost_runs_and_without_them_of_final_ones():
    final = seeds_of("lora", 0.0, 1, seconds_per_step=9.0, parameters=77)
    rounds = [FakeTrial("lora", stage="cost", seed=seed, seconds_per_step=seed / 10) for seed in (1, 2, 4)]
    (cost,) = analyse(comparison([*final, *rounds])).costs
    assert cost.seconds_per_step == (0.2, 0.1, 0.4)
    assert (cost.trainable, cost.total, cost.train_seconds, cost.source) == (77, 10**6, 60.0, "cost")
    (cost,) = analyse(comparison(final)).costs
    assert (cost.seconds_per_step, cost.source) == ((9.0, 9.0, 9.0), "final")
    (cost,) = analyse(comparison(seeds_of("lora", 0.0, 1, extra={"cost": None}))).costs
    assert (cost.seconds_per_step, cost.memory_bytes) == (None, None)


def test_costs_of_runs_alone_are_not_compared_with_those_of_neighbours():
    trials = [
        *seeds_of("lora", 0.0, 1),
        *seeds_of("bone", 0.0, 1, parameters=77),
        FakeTrial("lora", stage="cost", seed=1),
    ]
    lora, bone = analyse(comparison(trials)).costs
    assert (lora.source, lora.seconds_per_step) == ("cost", (0.1, 0.1, 0.1))
    assert (bone.source, bone.seconds_per_step, bone.memory_bytes) == ("cost", None, None)
    assert (bone.trainable, bone.train_seconds) == (77, 60.0)


def test_of_a_continued_run_no_time_is_taken():
    first, second, third = seeds_of("lora", 0.0)
    continued = [replace(one, extra={"resumed_from_step": 50, "seconds": 1.0}) for one in (first, second)]
    (cost,) = analyse(comparison([*continued, third], seeds=(1, 2, 3))).costs
    assert cost.train_seconds == 60.0
    (cost,) = analyse(comparison(continued, seeds=(1, 2))).costs
    assert cost.train_seconds is None


def test_a_peak_that_was_never_set_back_is_no_memory_of_a_step():
    measured = {"seconds_per_step": 0.1, "peak_memory_bytes": 2**30, "memory_before_bytes": 2**30}
    (cost,) = analyse(comparison(seeds_of("lora", 0.0, 1, extra={"cost": measured}))).costs
    assert (cost.seconds_per_step, cost.memory_bytes) == ((0.1, 0.1, 0.1), None)


def test_the_analysis_of_a_folder_is_the_same_each_time_and_goes_into_json(tmp_path):
    made = synthetic.comparison(tmp_path / "made", diagnostics=False, n=50)
    analysis = analyse(made)
    assert analyse(made) == analysis
    assert json.loads(json.dumps(asdict(analysis), allow_nan=False))["tables"][0]["n"] == 50
    assert [one.error for one in analysis.failures] == ["the loss is not a number at step 17"]
