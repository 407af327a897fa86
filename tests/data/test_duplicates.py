"""Copies and near copies. In mathematics a changed number, operator, name or answer makes another problem."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_data import problems

from pipeline.data.duplicates import jaccard, repeated, repeated_examples, shingle_sets, similar

LONG = (
    "A farmer has {n} sheep in a large green field near the old mill, and every {day} of the week he sells exactly {m} of "
    "them at the market in the next village to a trader who comes from the coast. After how many weeks are there none "
    "left in the field near the mill?"
)


COLORS = ["red", "blue", "green", "old", "new", "big", "small"]


def base(**changes):
    return LONG.format(**({"n": 12, "m": 3, "day": "Monday"} | changes))


def test_the_first_copy_stays_and_takes_over_a_solution():
    rows = problems(("What is $2+2$?", "4"), ("Other", "1"), ("what is \\(2 + 2\\)", "4.0"))
    rows[2].solution = "so \\boxed{4}"
    (drop,) = repeated(rows)
    assert (drop.index, drop.reason, drop.matched["id"]) == (2, "duplicate", "0")
    assert rows[0].solution == "so \\boxed{4}"


def reasons(*rows):
    return [(drop.index, drop.reason) for drop in repeated(problems(*rows))]


def test_a_majority_of_copies_is_believed():
    assert reasons(("p", "-1"), ("p", "683"), ("p", "683.0")) == [(0, "conflicting answers"), (2, "duplicate")]


def test_without_a_majority_all_copies_go():
    assert reasons(("p", "1"), ("p", "2")) == [(0, "conflicting answers"), (1, "conflicting answers")]
    assert reasons(("p", "1"), ("p", "1"), ("p", "2"), ("p", "2")) == [(i, "conflicting answers") for i in range(4)]


def test_a_word_changed_in_a_long_problem_is_a_near_copy():
    changed = base().replace("large green field", "green field")
    (drop,) = similar(problems((base(), "4"), ("Something else entirely", "4"), (changed, "4")), 0.8)
    assert (drop.index, drop.reason, drop.matched["id"]) == (2, "near duplicate", "0")
    assert similar(problems((base(), "4"), (changed, "4")), 1.0) == []


@pytest.mark.parametrize(
    "changed",
    [base(n=15), base(m=4), base().replace("exactly 3", "exactly three and 1"), base().replace("the old", "the x old")],
)
def test_other_numbers_and_names_are_other_problems(changed):
    assert similar(problems((base(), "4"), (changed, "4")), 0.5) == []


def test_other_answers_are_other_problems():
    rows = ((base(), "4"), (base().replace("none", "any"), "5"))
    assert similar(problems(*rows), 0.5) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(COLORS), min_size=9, max_size=16), max_size=14),
    st.sampled_from([0.3, 0.5, 0.7, 0.9]),
)
def test_the_index_finds_what_comparing_every_pair_finds(texts, threshold):
    """The same greedy rule, each problem against every earlier one that stays: the filter must lose none."""
    rows = problems(*((" ".join(text), "1") for text in texts))
    sets = [{tuple(text[i : i + 3]) for i in range(len(text) - 2)} for text in texts]
    kept, gone = [], []
    for i, one in enumerate(sets):
        same = any(len(one & sets[j]) / len(one | sets[j]) >= threshold - 1e-9 for j in kept)
        (gone if same else kept).append(i)
    assert [drop.index for drop in similar(rows, threshold)] == gone


def test_similarity_is_that_of_three_word_runs():
    one, other = shingle_sets(["a b c d e f g h", "a b c d e f g x"])
    assert jaccard(one, other) == pytest.approx(5 / 7)
    assert len(shingle_sets(["a b c"])[0]) == 0  # too short for anything but the whole


def test_random_arithmetic_has_no_near_copies():
    """Problems that differ in nothing but numbers are what mathematics is full of: none may be lost."""
    rng = random.Random(0)
    seen = {(rng.randint(2, 99), rng.randint(2, 99)) for _ in range(400)}
    rows = problems(*((base(n=n, m=m), "4") for n, m in sorted(seen)))
    assert similar(rows, 0.7) == []
    assert repeated(rows) == []


def test_progress_reaches_the_end():
    told = []
    similar(problems(*((base(n=n), "4") for n in range(300))), 0.9, told.append)
    assert told == [256, 300]


def test_warm_up_rows_may_hold_several_solutions_of_a_problem():
    rows = problems(("p", "1"), ("p", "1"), ("p", "1"))
    for row, solution in zip(rows, ("one way", "another", "one way"), strict=True):
        row.solution = solution
    assert [drop.index for drop in repeated_examples(rows)] == [2]
