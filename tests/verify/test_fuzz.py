"""Properties that hold for any text: nothing raises, what can be read equals itself, and neither side is favoured."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.verify import VerifierPool
from pipeline.verify.grading import grade_pair
from pipeline.verify.reading.extract import extract
from pipeline.verify.reading.normalize import clean, key
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.structure import readings
from pipeline.verify.types import DEFAULT

PIECES = [
    r"\frac", r"\dfrac", "{", "}", "(", ")", "[", "]", "^", "_", "1", "2", "10", "0.5", "x", "y", "n", r"\sqrt",
    "!", ",", "=", "<", r"\le", r"\pm", r"\cup", "|", r"\text{", r"\text{ and }", "&", r"\\", r"\begin{pmatrix}",
    r"\end{pmatrix}", r"\pi", "%", r"\%", r"\$", "$", " ", "\n", ":", ";", "or", "cm", r"\circ", r"\infty", r"\in",
    "+", "-", "*", "/", ".", r"\boxed{", "answer is", "####", "<answer>", "</answer>", "<think>", "</think>",
    "Final answer:", r"\(", r"\)", r"\[", r"\]", r"\left", r"\right", r"\overline", r"\{", r"\}", r"\neq", "e", "i",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
ANY = st.one_of(SOUP, st.text(max_size=80), st.text(st.characters(), max_size=40))
FEW = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

INTEGER = st.integers(-999, 999).map(str)
POSITIVE = st.integers(1, 99).map(str)
LEAF = st.one_of(
    INTEGER,
    st.decimals(-50, 50, places=2).map(str),
    st.tuples(POSITIVE, POSITIVE).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
    POSITIVE.map(lambda n: rf"\sqrt{{{n}}}"),
    POSITIVE.map(lambda n: rf"{n}\pi"),
    st.tuples(POSITIVE, POSITIVE).map(lambda t: f"{t[0]}x^{{{t[1]}}}+{t[1]}"),
)
ANSWER = st.one_of(
    LEAF,
    st.lists(LEAF, min_size=2, max_size=4).map(", ".join),
    st.lists(LEAF, min_size=2, max_size=3).map(lambda parts: f"({', '.join(parts)})"),
    st.lists(LEAF, min_size=1, max_size=3).map(lambda parts: rf"\{{{', '.join(parts)}\}}"),
    st.tuples(INTEGER, POSITIVE).map(lambda t: f"[{t[0]},{int(t[0]) + int(t[1])})"),
    LEAF.map(lambda leaf: f"x={leaf}"),
    INTEGER.map(lambda n: rf"x \ge {n}"),
    LEAF.map(lambda leaf: rf"{leaf}\text{{ cm}}"),
    st.lists(LEAF, min_size=4, max_size=4).map(
        lambda c: rf"\begin{{pmatrix}}{c[0]}&{c[1]}\\{c[2]}&{c[3]}\end{{pmatrix}}"
    ),
)


def _undecided(*_: str) -> bool | None:
    """In place of the symbolic layer, which is tested through the pool: it may take long on soup."""
    return None


@FEW
@given(ANY, ANY)
def test_grading_never_raises_and_is_deterministic(response: str, gold: str) -> None:
    first = grade_pair(response, gold, DEFAULT, _undecided)
    assert isinstance(first.correct, bool)
    assert grade_pair(response, gold, DEFAULT, _undecided) == first


@FEW
@given(ANY)
def test_reading_never_raises(text: str) -> None:
    found = extract(text)
    for part in {text, found.answer or ""}:
        cleaned = clean(part)
        key(cleaned)
        parse_number(cleaned)
        assert readings(cleaned)


@FEW
@given(SOUP, SOUP)
def test_neither_side_is_favoured(a: str, b: str) -> None:
    def same(x: str, y: str) -> bool:
        return grade_pair(rf"\boxed{{{x}}}", rf"\boxed{{{y}}}", DEFAULT, _undecided).correct

    if all(grade_pair(rf"\boxed{{{x}}}", rf"\boxed{{{x}}}", DEFAULT, _undecided).correct for x in (a, b)):
        assert same(a, b) == same(b, a)


@FEW
@given(ANSWER)
def test_an_answer_equals_itself(answer: str) -> None:
    assert grade_pair(rf"So \boxed{{{answer}}}.", answer, DEFAULT, _undecided).correct


@FEW
@given(ANSWER, ANSWER)
def test_answers_are_compared_alike_from_both_sides(a: str, b: str) -> None:
    left = grade_pair(rf"\boxed{{{a}}}", b, DEFAULT, _undecided)
    right = grade_pair(rf"\boxed{{{b}}}", a, DEFAULT, _undecided)
    assert left.correct == right.correct


@pytest.mark.parametrize("seed", [0])
def test_soup_in_the_pool(pool: VerifierPool, seed: int) -> None:
    """The same soup through the symbolic layer too: symmetric, and no error of ours."""
    import random

    rng = random.Random(seed)
    soups = ["".join(rng.choice(PIECES[:44]) for _ in range(rng.randint(1, 12))) for _ in range(400)]
    pairs = [(rf"\boxed{{{a}}}", rf"\boxed{{{b}}}") for a, b in zip(soups[::2], soups[1::2], strict=True)]
    there, back = pool.grade_many(pairs), pool.grade_many([(b, a) for a, b in pairs])
    assert [grade.reason for grade in there + back if grade.reason.startswith("error")] == []
    assert [grade.correct for grade in there] == [grade.correct for grade in back]
