"""Every convention is a setting: away from its default it changes a verdict in the workers that a stage starts."""

from dataclasses import fields

import pytest

from pipeline.settings import Verify
from pipeline.verify import Conventions, VerifierPool, grade

AWAY = Verify(
    workers=1,
    digits=2,
    digits_entry=6,
    degrees="number",
    list_order="fixed",
    hedge_distance=0,
    gold_list="all",
    percent="same",
    units="same",
    text_case=True,
    plain_response=False,
)
CASES = {
    "digits": (r"\boxed{0.33}", r"\frac13", True),
    "digits_entry": (
        r"\boxed{\begin{pmatrix} 0.33 \\ 1 \end{pmatrix}}",
        r"\begin{pmatrix} 1/3 \\ 1 \end{pmatrix}",
        False,
    ),
    "degrees": (r"\boxed{60^\circ}", r"\frac{\pi}{3}", False),
    "list_order": (r"\boxed{2, 1}", "1, 2", False),
    "hedge_distance": (r"\boxed{3}. So it is \boxed{4}", "4", True),
    "gold_list": (r"\boxed{6}", ["6", "7"], False),
    "percent": (r"\boxed{50\%}", "0.5", False),
    "units": (r"\boxed{5\text{ cm}}", "5", False),
    "text_case": (r"\boxed{\text{yes}}", r"\text{Yes}", False),
    "plain_response": ("x = 3", "3", False),
}
"""Convention -> (response, gold, verdict under `AWAY`); by default the verdict is the opposite one."""


@pytest.fixture(scope="module")
def away() -> dict[str, bool]:
    with VerifierPool.from_settings(AWAY) as pool:
        grades = pool.grade_many([case[:2] for case in CASES.values()])
    return {name: found.correct for name, found in zip(CASES, grades, strict=True)}


def test_every_convention_has_a_case() -> None:
    assert set(CASES) == {field.name for field in fields(Conventions)}


@pytest.mark.parametrize("name", CASES)
def test_a_convention_is_a_setting(pool: VerifierPool, away: dict[str, bool], name: str) -> None:
    response, gold, verdict = CASES[name]
    assert away[name] is verdict
    assert pool.grade_many([(response, gold)])[0].correct is not verdict
    assert grade(response, gold).correct is not verdict


def test_a_list_of_golds_is_any_of_them(pool: VerifierPool) -> None:
    golds = [r"\frac12", "one half"]
    responses = [r"\boxed{0.5}", r"\boxed{\text{one half}}", r"\boxed{2}", r"\boxed{0.5} and \boxed{2}"]
    assert [found.correct for found in pool.grade_many([(r, golds) for r in responses])] == [True, True, False, False]
    assert grade(r"\boxed{6}", "6 (or six)").correct
    assert grade(r"\boxed{\text{six}}", ("6", "six"), form="evaluated").correct
    assert grade(r"\boxed{6}", []).reason == "not text"
    assert pool.grade_many([(r"\boxed{6}", ["6", 6])])[0].reason == "not text"
