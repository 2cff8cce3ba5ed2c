"""What differences between methods mean: paired tests over examples, Welch's test over seeds, Holm, and resolution.

Two kinds of error are kept apart. Over examples: another test set of the same kind would have given another score. Over
seeds: another start, order of data and dropout would have given another model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linchain.evaluation.scores import Z

ALPHA = 0.05
Z_POWER = 0.8416212335729143  # 80 % quantile of the normal distribution
# A true difference of this many standard errors is found in 80 % of experiments by a two-sided test at 5 %.
DETECTABLE = Z + Z_POWER
# Of two methods that are both right on half of the examples, and independent of each other.
UNKNOWN_DISCORDANCE = 0.5
ROUNDING = 1e-12  # of a mean: what scatters less about it is the same number


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """McNemar's exact p, two-sided, of two methods' right answers: bool (n,) each, on the same examples.

    Where only one of them is right, under the null hypothesis it is either with probability 1/2: a binomial test. 1 where
    they are never right apart.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of a difference from its replicates (resamples,) over resampled examples.

    p = 2 · min(1 + #{d* ≤ 0}, 1 + #{d* ≥ 0}) / (resamples + 1), at most 1: below 5 % where the percentile interval excludes 0
    (the + 1 counts the sample itself, so that p is never 0; Davison and Hinkley 1997, section 4.2). Where fewer than ten
    examples differ it is a little too small: false alarms at 6 % for 5 % in simulations with seven. A resample in which the
    difference is no number (two perplexities beyond all bounds) is left out.

    Where every resample lies on one side, p is at most that of a normal distribution with their mean and standard deviation:
    counting 10,000 goes down to 2e-4 only, with which Holm finds nothing among the 253 pairs of 23 contestants.
    """
    from scipy.stats import norm

    differences = differences[~np.isnan(differences)]
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    counted = float(min(1.0, 2 * (1 + beyond) / (len(differences) + 1)))
    if beyond or not differences.size:
        return counted
    mean, spread = abs(float(differences.mean())), float(differences.std())
    return counted if spread <= ROUNDING * mean else min(counted, float(2 * norm.sf(mean / spread)))


def welch(first: Sequence[float], second: Sequence[float], standard_error: float = 0.0) -> float | None:
    """Two-sided p of Welch's t-test between two methods' scores over seeds; None where either has fewer than two.

    `standard_error` is that of their difference over examples. With it, p says whether other seeds and other examples
    together explain the difference: t = d / √(SE² + s₁²/m₁ + s₂²/m₂), where s are the standard deviations over m seeds, with
    Satterthwaite's degrees of freedom, SE taken as known. A test for each kind of error by itself, where both have to agree,
    is no substitute: their errors add up. Noise of one seed on one example counts twice, which is cautious.
    """
    from scipy.stats import t

    if min(len(first), len(second)) < 2:
        return None
    variances = [float(np.var(scores, ddof=1)) / len(scores) for scores in (first, second)]
    total = standard_error**2 + sum(variances)
    apart = abs(float(np.mean(first)) - float(np.mean(second)))
    if total == 0:
        return float(apart == 0)
    uncertain = sum(part**2 / (len(scores) - 1) for part, scores in zip(variances, (first, second), strict=True))
    return float(2 * t.sf(apart / math.sqrt(total), total**2 / uncertain if uncertain else math.inf))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order: those below α hold a false alarm with probability α at most (Holm 1979)."""
    count, running, adjusted = len(p_values), 0.0, [0.0] * len(p_values)
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def smallest_difference(n: int, discordant: float = UNKNOWN_DISCORDANCE) -> float:
    """The difference between two shares over `n` common examples that a paired test at 5 %, two-sided, finds in 80 % of cases.

    `discordant` is the share of examples on which only one of the two is right. An example's difference is 1, 0 or -1 with
    mean δ and variance d - δ², so that δ = (1.96 + 0.84) √((d - δ²) / n), which gives δ = k √(d / (n + k²)) with k = 2.80
    (Connor 1987, without the correction for the null variance).

    GSM8K, n = 1,319: 3.8 points where 24 % of the problems are discordant, half as many as between two independent methods
    that are right on half of them. For those, the default, it is 5.4 points; there 3.8 points are 1.96 standard errors of the
    difference, which is found in half of the cases only.
    """
    return DETECTABLE * math.sqrt(discordant / (n + DETECTABLE**2))


def examples_needed(n: int, resolvable: float, difference: float) -> int:
    """How many examples would resolve `difference` where `n` resolve `resolvable`: errors shrink as 1 / √n."""
    return math.ceil(n * (resolvable / difference) ** 2)


def seeds_needed(sd: float, difference: float) -> int:
    """How many seeds each of two methods needs before Welch's test at 5 % finds `difference` in 80 % of cases.

    `sd` is the standard deviation between seeds. n = 2 (k · sd / δ)² + z²/4, where the second term is for a spread that the few
    seeds have to tell, too (Guenther 1981).
    """
    return math.ceil(2 * (DETECTABLE * sd / difference) ** 2 + Z**2 / 4)
