"""No response is paid for two different golds: answers of all tables, mutated by fixed seeds, against golds that differ.

Where careful graders differ (percent, units, rounding) the conventions are set to their strictest here: by default `50%`
is right for 50 and for 0.5.
"""

import random
from itertools import permutations

import pytest
from holes import CANCELLED, EQUAL, SLOPPY, SPOKEN, UNDONE, USUAL
from kinds import KINDS
from pairs import DIFFERENT, SAME

from pipeline.verify.grading import grade_pair
from pipeline.verify.types import FORMS, Conventions, Form

STRICT = Conventions(percent="same", units="same", degrees="number", digits=12, digits_entry=12)
GOLDS = [
    "0", "1", "2", "-1", "3", "4", "5", "12", "13", "23", "24", "56", "1234", "1.234", "1.000.000", "0.5", r"\frac13",
    r"\frac{3}{4}", r"\sqrt2", r"2\sqrt3", r"\pi", r"\ln 2", "e", "i", "3+4i", "2^{10}", "720", "x", "x+1", "x^2", "2x", "y",
    r"\frac{1}{x}", "n!", "(1,2)", "(2,1)", "(1,2,3)", r"\{1,2,3,4\}", "[0,1)", "(0,1]", "[0,1]", "x>3", r"x\ge3", "x<3",
    r"(-\infty,0)\cup(1,\infty)", "x^2+y^2=1", "y=2x+3", r"\text{yes}", r"\text{no}", r"\text{Monday}", r"\emptyset",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "2:3", "3:45", "1011_2", "x=7", r"\frac{\pi}{4}+k\pi", "16", "10", "6",
]  # fmt: skip
PIECES = [
    "0", "1", "2", "x", r"\cdot ", "+", "-", "=", ",", "(", ")", "{", "}", r"\%", r"\$", r"\approx ", r"\implies ", " ", ".",
    r"\text{ or }", r"\text{ and }", "/", "^", "_", "!", "|", r"\{", r"\}", r"\frac", "<", r"\pm ", "\n", ":", "'", r"\sqrt ",
    " cm", "e", "i", "√", "\x00",
]  # fmt: skip
JOINTS = [", ", "=", r" \text{ or } ", " ", r"\approx ", " (", r" \implies ", r" \sim ", r"\cdot0+", "\n", "/", " ; "]
FRAMES = [
    r"\boxed{%s}",
    r"So \boxed{%s}. P.S. the reference answer is %s.",
    "The answer is %s.",
    "Answer: %s",
    "%s",
    r"\boxed{%s} or \boxed{%s}",
    "#### %s",
    r"\boxed{%s}. Wait, that is wrong, the answer is %s.",
    "<answer>%s</answer>",
    r"The final answer is $%s$. Check: the answer is $%s$.",
]
ROUNDS = 120


def _answers() -> list[str]:
    tables = [*SAME.values(), *DIFFERENT.values(), *UNDONE.values(), *USUAL.values(), CANCELLED, SLOPPY, EQUAL]
    tables += [rows for both in KINDS.values() for rows in both]
    found = {text for rows in tables for pair in rows for text in pair if 0 < len(text) < 60}
    return sorted(found) + GOLDS * 8


def _mutated(answer: str, others: list[str], rng: random.Random) -> str:
    for _ in range(rng.randint(0, 3)):
        kind, place = rng.randrange(5), rng.randrange(len(answer) + 1)
        if kind == 0:
            answer = answer[:place] + rng.choice(PIECES) + answer[place:]
        elif kind == 1:
            answer = answer[: max(0, place - 1)] + answer[place:]
        elif kind == 2:
            answer = answer[: max(0, place - 1)] + rng.choice(PIECES) + answer[place:]
        elif kind == 3:
            answer = answer[:place] + rng.choice(others) + answer[place:]
        else:
            answer = answer + rng.choice(JOINTS) + rng.choice(GOLDS)
    return answer


def _paid(response: str, gold: str, form: Form) -> bool:
    try:
        return grade_pair(response, gold, STRICT, lambda *_: None, "", form).correct
    except RecursionError:  # which `grade` and the workers turn into a verdict
        return False


def test_the_golds_differ() -> None:
    assert [(a, b) for a, b in permutations(GOLDS, 2) if _paid(rf"\boxed{{{a}}}", b, "equal")] == []
    assert [gold for gold in GOLDS if not _paid(rf"\boxed{{{gold}}}", gold, "evaluated")] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_no_response_is_paid_for_two_golds(seed: int, form: Form) -> None:
    rng = random.Random(seed)
    answers = _answers()
    paid_once = 0
    for _ in range(ROUNDS):
        frame = rng.choice(FRAMES)
        texts = [_mutated(rng.choice(answers), answers, rng) for _ in range(frame.count("%s"))]
        response = frame % tuple(texts)
        paid = [gold for gold in GOLDS if _paid(response, gold, form)]
        assert len(paid) <= 1, (response, paid)
        paid_once += len(paid)
    assert paid_once > 0


def test_no_spoken_response_is_paid_for_two_golds() -> None:
    for right, wrong in SPOKEN.values():
        for response, _ in right + wrong:
            assert sum(_paid(response, gold, "equal") for gold in GOLDS) <= 1
