"""The second audit's cases (audited.py): right answers that were lost, and wrong ones that were paid."""

import pytest
from audited import PAIRS, RESPONSES, UNDONE, WITH_PROBLEM

from pipeline.verify import Grade, VerifierPool


@pytest.fixture(scope="module")
def strict() -> VerifierPool:
    with VerifierPool(1, 1.0, "evaluated") as shared:
        yield shared


def _unlike(pool: VerifierPool, rows: list[tuple], wanted: bool) -> list[tuple[tuple, Grade]]:
    return [(row, g) for row, g in zip(rows, pool.grade_many(rows), strict=True) if g.correct is not wanted]


def _boxed(rows: list[tuple]) -> list[tuple]:
    return [(rf"So it is \boxed{{{given}}}.", *rest) for given, *rest in rows]


@pytest.mark.parametrize("kind", PAIRS)
def test_answers(strict: VerifierPool, pool: VerifierPool, kind: str) -> None:
    paid, refused = PAIRS[kind]
    assert _unlike(strict, _boxed(paid), True) == []
    assert _unlike(pool, _boxed(refused), False) == []


@pytest.mark.parametrize("kind", RESPONSES)
def test_responses(strict: VerifierPool, pool: VerifierPool, kind: str) -> None:
    paid, refused = RESPONSES[kind]
    assert _unlike(strict, paid, True) == []
    assert _unlike(pool, refused, False) == []


@pytest.mark.parametrize("kind", WITH_PROBLEM)
def test_with_the_problem_at_hand(strict: VerifierPool, kind: str) -> None:
    paid, refused = WITH_PROBLEM[kind]
    assert _unlike(strict, _boxed(paid), True) == []
    assert _unlike(strict, _boxed(refused), False) == []


def test_work_left_undone(strict: VerifierPool, pool: VerifierPool) -> None:
    assert _unlike(pool, _boxed(UNDONE), True) == []
    assert _unlike(strict, _boxed(UNDONE), False) == []


def test_a_gold_in_prose_is_right_in_its_own_words(strict: VerifierPool) -> None:
    gold = r"Solution is: $(x, y)=\left(\frac{10}{13}, \frac{1}{13}\right)$"
    assert _unlike(strict, [(rf"\boxed{{{gold}}}", gold)], True) == []
    assert (
        _unlike(
            strict,
            [(r"\boxed{Solution is: $(x,y)=(1,2)$}", gold), (r"\boxed{See the proof of lemma 2 in part b}", "proof")],
            False,
        )
        == []
    )
