"""Problems of evaluation sets are found in training; set phrases alone are no evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_data import problems

from pipeline.data.contamination import EvaluationIndex

EVAL = (
    "Ten friends share forty two apples among themselves so that each friend gets at least three of the apples. "
    "How many ways?"
)
PHRASE = "can be written as $\\frac{m}{n}$ where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
NAMES = ["alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "theta"]


def found(train, *evaluation, ngram=13, common=4):
    index = EvaluationIndex({"set": problems(*((text, "1") for text in evaluation))}, ngram)
    return index.contaminated(problems(*((text, "2") for text in train)), common)


def test_a_long_run_of_words_is_found_and_said():
    (drop,) = found(["No.", f"Read this first: {EVAL} Give it as a number."], EVAL)
    assert (drop.index, drop.reason, drop.matched["set"], drop.matched["id"]) == (1, "contaminated", "set", "0")
    assert drop.detail.startswith("13 words: ")


def test_a_run_that_is_one_word_short_is_not():
    words = EVAL.split()
    assert found([" ".join(words[:12]) + " something else"], EVAL) == []
    assert len(found([" ".join(words[:13]) + " something else"], EVAL)) == 1


def test_short_problems_are_compared_whole():
    assert len(found(["Compute $\\binom{8}{4}$."], "compute \\(\\dbinom{8}{4}\\)")) == 1
    assert found(["Compute $\\binom{8}{4}+1$."], "Compute $\\binom{8}{4}$.") == []
    assert found(["Compute $\\binom{8}{5}$."], "Compute $\\binom{8}{4}$.") == []


def test_common_phrases_are_not_evidence():
    train = [f"The chance that a {name} wins its {i}th game {PHRASE}" for i, name in enumerate(NAMES)]
    evaluation = (
        "The area of the region that lies inside all of the three given circles and outside of the square " + PHRASE
    )
    assert found(train, evaluation) == []
    assert len(found(train[:3], evaluation)) == 3  # too few to tell a phrase
    assert len(found(train, evaluation, common=0)) == len(train)


def test_a_phrase_that_is_most_of_the_evaluation_problem_is_evidence():
    train = [f"The chance that a {name} wins its {i}th game {PHRASE}" for i, name in enumerate(NAMES)]
    drops = found(train, "It " + PHRASE)
    assert [drop.index for drop in drops] == list(range(len(train)))
    assert drops[0].detail.endswith("of its words")


def test_drawings_do_not_count_as_words():
    code = (
        "[asy] size(150); draw((0,0)--(4,0)--(4,3)--cycle); label('A',(0,0),S); label('B',(4,0),S); dot((0,0)); [/asy]"
    )
    assert found([f"Find the area. {code}"], f"What is the perimeter? {code}") == []


@given(st.integers(0, 8), st.integers(0, 8), st.integers(2, 13))
def test_a_shared_run_is_found_at_any_place(before, after, ngram):
    text = " ".join(NAMES[:before]) + " " + EVAL + " " + " ".join(NAMES[:after])
    assert len(found([text], EVAL, ngram=ngram)) == 1


@pytest.mark.parametrize("ngram", [1, 3, 13])
def test_the_same_problem_is_found_at_every_length(ngram):
    assert len(found([EVAL], EVAL, ngram=ngram)) == 1


def test_nothing_to_compare_with():
    assert EvaluationIndex({}, 13).contaminated(problems((EVAL, "1")), 4) == []
    assert found([], EVAL) == []
