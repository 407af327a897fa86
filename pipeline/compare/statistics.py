"""What paired runs say: intervals, a sign test, the correction for several arms, and how many seeds an effect needs.

Two arms with the same seed share the warm-up, the prompts and the sampling streams, so their difference varies less than
either. Everything here takes one difference for each seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
"""Chance of finding an effect of the given size, for `seeds_needed`."""


@dataclass(frozen=True)
class Difference:
    """Arm minus control, over the seeds that both have."""

    seeds: int
    mean: float
    low: float
    """Lower end of the bootstrap interval of the mean, at the corrected level."""
    high: float
    deviation: float
    """Standard deviation over seeds (ddof 1); NaN with one seed."""
    wins: int
    """Seeds at which the arm is above the control."""
    losses: int
    sign_p: float
    """Two-sided exact p of the sign test; 1 if all seeds tie."""

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `same` (no seed differs), or `open`: the interval holds 0."""
        if self.seeds and not self.wins and not self.losses:
            return "same"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "open"


def compare(differences: Sequence[float], comparisons: int = 1, seed: int = 0) -> Difference:
    """Interval and sign test of paired differences.

    Args:
        differences: one number for each seed; at least one.
        comparisons: how many arms are held against the same control. The interval is at 1 - 0.05 / comparisons
            (Bonferroni), so that all intervals hold at once with 95%.
        seed: of the bootstrap.
    """
    values = np.asarray(differences, dtype=np.float64)
    low, high = bootstrap_mean(values, 1 - (1 - LEVEL) / comparisons, seed)
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Difference(len(values), float(values.mean()), low, high, deviation, wins, losses, sign_test(wins, losses))


def bootstrap_mean(values: NDArray[np.float64], level: float, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; equal seeds give equal intervals."""
    random = np.random.default_rng(seed)
    means = values[random.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p that wins and losses are equally likely; ties are left out."""
    count, extreme = wins + losses, max(wins, losses)
    tail = sum(math.comb(count, i) for i in range(extreme, count + 1)) / 2**count
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: adjusted p of each, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def seeds_needed(deviation: float, effect: float, comparisons: int = 1, power: float = POWER) -> int | None:
    """Seeds at which a mean difference of `effect` is found with chance `power`, by the normal approximation

        n = ((z_{1 - alpha / 2} + z_power) * deviation / effect)^2,    alpha = 0.05 / comparisons

    and at least 5. None if the deviation is not known.
    """
    if math.isnan(deviation):
        return None
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - (1 - LEVEL) / comparisons / 2) + normal.inv_cdf(power)
    return max(5, math.ceil((quantiles * deviation / abs(effect)) ** 2))
