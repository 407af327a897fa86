"""pass@k against counting every subset, intervals against what is known of the binomial."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from pipeline.tracking.statistics import bootstrap_intervals, is_direct, pass_at_k, passes, response_shape, summarise


def by_counting(samples: int, right: int, k: int) -> Fraction:
    """Share of the k-subsets that hold a right one; the first `right` samples are right."""
    subsets = list(combinations(range(samples), k))
    return Fraction(sum(min(subset) < right for subset in subsets), len(subsets))


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples):
    for k in range(1, samples + 1):
        wanted = [float(by_counting(samples, right, k)) for right in range(samples + 1)]
        got = pass_at_k(samples, np.arange(samples + 1), k)
        assert got == pytest.approx(wanted, abs=1e-15)
        assert got[0] == 0.0
        assert (got[samples - k + 1 :] == 1.0).all()  # too few wrong ones to fill a subset: exactly certain


def test_pass_at_k_of_many_samples():
    for right, k in ((3, 5000), (1, 1), (37, 200)):
        wanted = 1 - Fraction(math.comb(10_000 - right, k), math.comb(10_000, k))
        assert pass_at_k(10_000, right, k) == pytest.approx(float(wanted), rel=1e-9)


def test_pass_at_k_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="pass@9 cannot be estimated from 8 samples"):
        pass_at_k(8, [1], 9)
    with pytest.raises(ValueError, match="1 <= k"):
        pass_at_k(8, [1], 0)
    with pytest.raises(ValueError, match="between 0 and 8"):
        pass_at_k(8, [9], 1)


def test_intervals_of_a_binary_figure_are_as_wide_as_the_binomial_says():
    right = np.arange(400) % 2
    low, high = bootstrap_intervals(right, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.08)
    assert low < 0.5 < high


def test_intervals_hold_the_truth_about_as_often_as_they_promise():
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_intervals(random.random(100) < 0.3, resamples=200)
        inside += low <= 0.3 <= high
    assert 0.90 <= inside / 200 <= 0.99


def test_intervals_depend_on_the_seed_alone():
    values = np.random.default_rng(2).random((50, 3))
    again = bootstrap_intervals(values, 200, seed=3)
    assert (bootstrap_intervals(values, 200, seed=3) == again).all()
    assert (bootstrap_intervals(values, 200, seed=4) != again).any()
    # The same problems are drawn for every column.
    assert bootstrap_intervals(values[:, 0], 200, seed=3) == pytest.approx(again[:, 0], abs=1e-15)


def test_intervals_without_spread_or_problems():
    assert bootstrap_intervals([1.0, 1.0, 1.0]).tolist() == [1.0, 1.0]
    assert bootstrap_intervals([0.25]).tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="no problems"):
        bootstrap_intervals([])


def test_summary_of_an_evaluation():
    correct = np.zeros((4, 8), dtype=bool)
    correct[0] = True
    correct[1, :4] = True
    correct[2, 0] = True
    summary = summarise(correct, greedy=[1, 1, 0, 0], bootstrap=500)
    assert summary["n"] == 4
    assert summary["k"] == 8
    assert summary["greedy"] == 0.5
    assert summary["avg@8"] == summary["pass@1"] == (8 + 4 + 1) / 32
    for k in (2, 4, 8):
        wanted = sum(by_counting(8, right, k) for right in (8, 4, 1, 0)) / 4
        assert summary[f"pass@{k}"] == pytest.approx(float(wanted), abs=1e-15)
    names = [name for name in summary if name not in ("n", "k") and not name.endswith("_ci")]
    assert names == ["greedy", "avg@8", "pass@1", "pass@2", "pass@4", "pass@8"]
    for name in names:
        low, high = summary[f"{name}_ci"]
        assert 0 <= low <= summary[name] <= high <= 1


def test_summary_without_greedy_and_with_an_odd_number_of_samples():
    summary = summarise([[1, 0, 0, 1, 1, 0]], bootstrap=10)
    assert "greedy" not in summary
    assert passes(6) == [1, 2, 4, 6]
    assert passes(8) == [1, 2, 4, 8]
    assert passes(1) == [1]
    assert summary["pass@6"] == 1.0
    assert summary["avg@6_ci"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("correct", "greedy", "said"),
    [
        (np.zeros((0, 8)), None, "not empty"),
        (np.zeros(8), None, r"\[problems, samples\]"),
        (np.full((2, 2), 0.5), None, "0 or 1"),
        (np.full((2, 2), np.nan), None, "0 or 1"),
        (np.ones((2, 2)), [1], r"greedy must be \[2\]"),
    ],
)
def test_summary_refuses_what_is_no_verdict(correct, greedy, said):
    with pytest.raises(ValueError, match=said):
        summarise(correct, greedy)


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        (r"\boxed{7}", True),
        (" $\\boxed{\\frac{1}{2}}$.\n", True),
        (r"\[ \boxed{x^{2}} \]", True),
        (r"\(\boxed{3}\)", True),
        ("3+4=7\n\\boxed{7}", False),
        (r"\boxed{7} is the answer", False),
        (r"\boxed{3} or \boxed{4}", False),
        (r"\boxed{3", False),
        ("7", False),
        ("", False),
    ],
)
def test_direct_answers_are_the_box_alone(text, direct):
    assert is_direct(text) is direct


def test_shape_of_responses():
    assert response_shape([r"\boxed{1}", "1+1=2 \\boxed{2}"], [4, 10]) == {
        "direct_share": 0.5,
        "characters_mean": 12.0,
        "response_tokens": 7.0,
    }
    assert response_shape([]) == {}
