"""Hand-computed numbers, and an interval that holds what it promises."""

import math

import numpy as np
import pytest

from pipeline.compare.statistics import bootstrap_mean, compare, holm, seeds_needed, sign_test


def test_the_sign_test_is_the_exact_binomial():
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(0, 5) == 2 / 32
    assert sign_test(7, 3) == pytest.approx(2 * (120 + 45 + 10 + 1) / 1024)
    assert sign_test(4, 4) == 1.0
    assert sign_test(0, 0) == 1.0


def test_holm_adjusts_in_order_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_no_difference_at_any_seed_is_the_same():
    same = compare([0.0] * 6)
    assert (same.mean, same.low, same.high, same.sign_p, same.verdict) == (0.0, 0.0, 0.0, 1.0, "same")


def test_a_clear_difference_is_found_and_more_controls_widen_the_interval():
    values = [0.05, 0.07, 0.04, 0.06, 0.08, 0.05, 0.09, 0.03]
    alone, among = compare(values), compare(values, comparisons=4)
    assert alone.verdict == "higher"
    assert compare([-v for v in values]).verdict == "lower"
    assert among.low < alone.low < alone.mean < alone.high < among.high
    assert (alone.wins, alone.losses) == (8, 0)


def test_an_interval_around_zero_stays_open():
    assert compare([0.1, -0.1, 0.05, -0.07, 0.02]).verdict == "open"
    assert math.isnan(compare([0.3]).deviation)


def test_the_interval_of_the_mean_holds_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap_mean(random.normal(1.0, 1.0, 40), 0.9, seed=trial)
        inside += low <= 1.0 <= high
    assert 165 <= inside <= 196  # 180 expected; the percentile interval is a little narrow


def test_seeds_needed_is_the_normal_approximation():
    assert seeds_needed(0.1, 0.05) == math.ceil(((1.959964 + 0.841621) * 2) ** 2) == 32
    assert seeds_needed(0.1, 0.05, comparisons=3) > 32
    assert seeds_needed(0.001, 0.5) == 5
    assert seeds_needed(math.nan, 0.05) is None


def test_a_planted_effect_is_found_with_the_seeds_that_the_power_line_promises():
    needed = seeds_needed(0.1, 0.05)
    random, found = np.random.default_rng(1), 0
    for trial in range(200):
        found += compare(random.normal(0.05, 0.1, needed), seed=trial).verdict == "higher"
    assert found >= 150  # 160 expected
