"""Axes, thinning and smoothing: what a curve may not say that the numbers do not."""

import re

import pytest

from pipeline.report.axes import fit, steps_axis, tick, written
from pipeline.report.charts import Line, averaged, line_chart, thinned
from pipeline.report.text import escape, shortened


@pytest.mark.parametrize(
    ("values", "options", "ticks"),
    [
        ([0.41, 0.97], {}, ["0.4", "0.6", "0.8", "1.0"]),
        ([3.0, 41.0], {"zero": True}, ["0", "10", "20", "30", "40", "50"]),
        ([2e-5, 5e-3], {"log": True}, ["1e-05", "0.0001", "0.001", "0.01"]),
        ([-1.0, 5e3], {"log": True}, ["-2,000", "0", "2,000", "4,000", "6,000"]),
        ([0.0, 0.0], {"zero": True}, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, options, ticks):
    axis = fit(values, **options)
    assert [tick(value, axis) for value in axis.ticks] == ticks
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert (axis.place(axis.low), axis.place(axis.high)) == (0, 1)


@pytest.mark.parametrize("values", [[], [7.0], [1.0000001, 1.0000003], [-3.0, -3.0], [1e-300], [1e300, 1e300]])
def test_an_axis_always_has_a_length_and_ticks_that_differ(values):
    axis = fit(values)
    labels = [tick(value, axis) for value in axis.ticks]
    assert axis.high > axis.low
    assert len(set(labels)) == len(labels) > 1


def test_steps_keep_their_exact_range():
    axis = steps_axis(1, 80)
    assert (axis.low, axis.high) == (1, 80)
    assert axis.ticks == (20, 40, 60, 80)
    assert steps_axis(5, 5).place(5) == 0.5


def test_shares_keep_their_small_digits():
    assert [written(value, "share") for value in (0, 0.00431, 0.0123, 0.5, -0.02)] == [
        "0%",
        "0.43%",
        "1.2%",
        "50%",
        "-2.0%",
    ]


def test_thinning_takes_means_and_leaves_gaps():
    steps = list(range(1, 1001))
    values = [None if step <= 100 else float(step) for step in steps]
    xs, (column,) = thinned(steps, [values], most=100)
    assert len(xs) == len(column) == 100
    assert column[:10] == [None] * 10
    assert column[10] == sum(range(101, 111)) / 10
    assert thinned([1, 2], [[None, 3.0]]) == ([1, 2], [[None, 3.0]])


def test_the_moving_average_neither_lags_nor_invents():
    line = [float(i) for i in range(100)]
    assert averaged(line)[20:80] == pytest.approx(line[20:80])  # centred: a straight line is its own average
    assert averaged([2.0, None, 2.0] * 20) == [2.0, None, 2.0] * 20


def test_gaps_break_a_curve_and_rare_values_are_joined():
    broken = line_chart([1, 2, 3, 4, 5], [Line("x", [1.0, 2.0, None, 2.0, 1.0])])
    (path,) = re.findall(r'<path d="([^"]*)" class="curve"', broken)
    assert path.count("M") == 2
    rare = line_chart(list(range(9)), [Line("x", [1.0, *[None] * 3, 2.0, *[None] * 3, 1.5])])
    (path,) = re.findall(r'<path d="([^"]*)" class="joined"', rare)
    assert (path.count("M"), path.count("L")) == (1, 2)
    assert rare.count("h0") == 3


def test_text_shows_what_hides():
    assert escape("a\0b\x1b\u202e\ud800\u200b\x9b\n\té") == "a␀b␛\\u202e\\ud800\\u200b\\u009b\n\té"
    assert escape("<\"'&>") == "&lt;&quot;&#x27;&amp;&gt;"
    assert shortened("abcdefghij", 6) == 'abcd<span class="cut"> … 4 characters left out … </span>ij'
    assert shortened("abcdef", 6) == "abcdef"
