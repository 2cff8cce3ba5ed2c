import itertools

import numpy as np
import pytest

from linchain.evaluation.resampling import bootstrap, mean
from linchain.lab.findings import SeedScore
from linchain.lab.samples import Sample, differences


@pytest.mark.parametrize(("contestants", "seeds", "spread"), [(2, 1, 0.0), (2, 3, 0.05), (4, 3, 0.05)])
def test_of_equal_methods_a_winner_is_seldom_declared(contestants, seeds, spread):
    """150 comparisons of methods that are as good as each other, with examples and seeds of their own.

    `spread` is that of the seeds' skill, in units of the examples' hardness. The bound is 5 % and two standard errors.
    """
    comparisons, n = 150, 200
    generator = np.random.default_rng(0)
    hardness = 0.5 * generator.standard_normal((comparisons, 1, 1, n))
    skill = spread * generator.standard_normal((comparisons, contestants, seeds, 1))
    correct = skill + 0.3 * generator.standard_normal((comparisons, contestants, seeds, n)) > hardness
    replicates = bootstrap(mean(correct.mean(2).reshape(-1, n)), n).T.reshape(comparisons, contestants, -1)
    declared = 0
    for runs, resampled in zip(correct, replicates, strict=True):
        samples = {
            str(label): Sample(
                "accuracy",
                n,
                tuple(SeedScore(seed, float(run.mean())) for seed, run in enumerate(own)),
                resampled[label],
                own[0] if seeds == 1 else None,
            )
            for label, own in enumerate(runs)
        }
        best = max(samples, key=lambda label: samples[label].value)
        pairs = list(itertools.combinations(samples, 2))
        found = differences(samples, pairs)
        declared += any(one.distinguishable for pair, one in zip(pairs, found, strict=True) if best in pair)
    assert declared / comparisons <= 0.085
