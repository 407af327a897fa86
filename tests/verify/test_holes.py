r"""Responses that would be paid without having solved anything, each beside near ones that have: (response, gold, paid).

A false positive is a lesson that a policy learns. All of these are graded with `form="evaluated"`, as in training.
"""

import json
from pathlib import Path

import pytest

from pipeline.verify import Grade, VerifierPool, grade
from pipeline.verify.reading.asides import is_unfinished
from pipeline.verify.reading.sentences import MATH

MOST_STATEMENTS_PAID = 0.005
"""Of MATH-500: in two problems a formula of the statement is the gold as it stands."""

UNEVALUATED: list[tuple[str, str]] = [
    ("37*48", "1776"), (r"37\cdot 48", "1776"), ("3+4", "7"), ("100-1", "99"), (r"\sum_{k=1}^{10}k", "55"),
    (r"\int_0^1 2x\,dx", "1"), (r"\lim_{x\to0}\frac{\sin x}{x}", "1"), (r"\binom{5}{2}", "10"), (r"{6 \choose 3}", "20"),
    (r"\gcd(12,18)", "6"), (r"\operatorname{lcm}(4,6)", "12"), (r"7^{100} \bmod 5", "1"), ("1011_2", "11"),
    ("11", "1011_2"), ("102_3", "1011_2"), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
    (r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}", "-2"), ("2x+3=11", "x=4"), ("2x+3>9", "x>3"), ("x-3>0", "x>3"),
    ("2x+3>9", r"(3,\infty)"), ("x^2=4", r"x=\pm 2"), (r"\sqrt{16}", "4"), (r"\log_2 8", "3"),
    (r"\sin 30^\circ", r"\frac12"),
    (r"\frac23+\frac14", r"\frac{11}{12}"), (r"1-\frac14", r"\frac34"), (r"2^3\cdot 3^2", "72"), (r"\frac{84}{2}", "42"),
    (r"12\div 4", "3"), (r"\frac{10!}{8!}", "90"), (r"\lfloor 3.7\rfloor", "3"), (r"\max(3,7)", "7"), ("|{-5}|", "5"),
    (r"\frac{1/2}{3}", r"\frac16"), (r"\sqrt2+\sqrt2", r"2\sqrt2"), (r"\frac{\pi}{4}+\frac{\pi}{4}", r"\frac{\pi}{2}"),
    ("(1+i)(2-i)", "3+i"), ("i^2", "-1"), ("2+3i+1", "3+3i"), ("(2+3,4)", "(5,4)"), (r"\{1+1,3\}", r"\{2,3\}"),
    ("[0,2+3]", "[0,5]"),
    ("x=2+2", "x=4"), (r"\prod_{k=1}^5 k", "120"), (r"\frac{d}{dx}x^2", "2x"), (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"),
    (r"2\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}2\\6\end{pmatrix}"), (r"\cos\pi", "-1"),
    ("1+2+\\dots+10", "55"),
]  # fmt: skip
"""(the box, the gold): refused as `evaluated`."""

CLOSED_FORMS: list[tuple[str, str]] = [
    ("2^{10}", "1024"), ("5!", "120"), (r"\frac{3\sqrt2}{4}", r"\frac{3\sqrt{2}}{4}"), (r"\ln 2", r"\ln 2"),
    (r"3\cdot\pi", r"3\pi"),
    (r"1+\sqrt5", r"\sqrt5+1"), (r"2\frac34", r"\frac{11}{4}"), ("2 3/4", "2.75"), (r"3\times10^8", "300000000"),
    (r"50\%", "0.5"),
    ("6/8", r"\frac34"), ("0.75", r"\frac34"), (r"(\frac23)^4", r"\frac{16}{81}"), (r"\frac{1}{2^{10}}", r"\frac1{1024}"),
    (r"\sqrt8", r"2\sqrt2"), (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"), (r"2^3\cdot 3^2", r"3^2 \cdot 2^3"),
    ("72", r"2^3\cdot 3^2"),
    ("x=4", "4"), ("4", "x=4"), ("4=x", "x=4"), ("3<x", "x>3"), (r"(3,\infty)", "x>3"), (r"x\ge 3", r"[3,\infty)"),
    ("-2^{10}", "-1024"),
    (r"0.\overline{3}", r"\frac13"), ("12,000", "12000"), (r"\$5", "5"), (r"5\text{ cm}", "5"), ("1:2", r"\frac12"),
    ("3+4i", "4i+3"),
    (r"\frac{1+\sqrt5}{2}", r"\frac{\sqrt5+1}{2}"), ("(x+1)^2", "x^2+2x+1"), ("n!", "n!"), ("1011_2", "1011_2"),
    ("3+4=7", "7"),
    (r"\binom{10}{3}", r"\binom{10}{3}"), ("12 \\text{ dogs}", "12"), ("twelve", "12"), (r"\frac{5}{1}", "5"),
    ("y=2x+1", "y=1+2x"),
]  # fmt: skip

COPIES: list[tuple[str, str, str, bool]] = [
    (r"\frac68", r"\frac34", r"Simplify $\frac{6}{8}$.", False), ("6/8", r"\frac34", "What is 6/8 in lowest terms?", False),
    ("0.75", r"\frac34", "Write $0.75$ as a fraction.", False),
    ("0.75", r"\frac34", "Three of four doors are red. Which share?", True),
    ("x^2+2x+1", "(x+1)^2", "Factor $x^2+2x+1$.", False), ("1+2x+x^2", "(x+1)^2", "Factor $x^2+2x+1$.", False),
    ("(x+1)^2", "x^2+2x+1", "Expand $(x+1)^2$.", False), ("x^2+2x+1", "x^2+2x+1", "Expand $(x+1)^2$.", True),
    (r"\sqrt{242}", r"11\sqrt2", r"Simplify $\sqrt{242}$.", False),
    (r"11\sqrt2", r"11\sqrt2", r"Simplify $\sqrt{242}$.", True),
    ("2^{10}", "1024", "Compute $2^{10}$.", False), ("2^{10}", "1024", "How many subsets have ten things?", True),
    ("5", "5", "There are $5$ birds; $3$ leave and 3 come.", True),
    (r"12\text{ cm}", "12", r"Its side is $12\text{ cm}$.", True),
    ("2x+3y=5", r"y=\frac53-\frac23x", "Solve $2x+3y=5$ for $y$.", False),
    ("6:4", "3:2", "Simplify the ratio $6:4$.", False),
    (r"\frac{x^2-1}{x-1}", "x+1", r"Simplify \[\frac{x^2-1}{x-1}.\]", False),
]  # fmt: skip

PROSE: list[tuple[str, str, bool]] = [
    (r"\boxed{12} ... P.S. the reference answer is 13.", "13", False),
    (r"\boxed{12} ... P.S. the reference answer is 13.", "12", True),
    (r"\boxed{7}. We can check our answer: if n = 7, then 7*13-1 = 90.", "90", False),
    (r"\boxed{7}. We can check our answer: if n = 7, then 7*13-1 = 90.", "7", True),
    ("\\boxed{12}\nThe official answer is 13.", "13", False),
    ("\\boxed{12}\nThe correct answer is 13.", "13", False),
    ("\\boxed{12}\nNote: the gold answer: 13", "13", False),
    (r"\boxed{12}. For example, the answer to 3+4 is 7.", "7", False),
    (r"\boxed{12}. For example, the answer to 3+4 is 7.", "12", True),
    (r"\boxed{12}. The answer key says the answer is 13.", "13", False),
    (r"\boxed{12}. According to the book, the final answer is 13", "13", False),
    (r"\boxed{12}. If we used 5 then the answer would be 13", "13", False),
    (r"\boxed{12}. The answer to the previous problem is 13.", "13", False),
    ("\\boxed{12}\n\nQuestion: What is 2+2?\nAnswer: 4", "4", False),
    ("\\boxed{12}\n\nQuestion: What is 2+2?\nAnswer: 4", "12", True),
    ("\\boxed{12}\n\nProblem 2. What is 2+2? \\boxed{4}", "12", True),
    ("\\boxed{165}\nNotice that this answer equals $\\binom{11}{3}.$ Is this a coincidence?", "165", True),
    (r"\boxed{12}. Wait, that is wrong. The answer is 13.", "13", True),
    (r"\boxed{12}. Actually I made a mistake, the final answer is 13.", "13", True),
    ("\\boxed{12}\nHowever, the answer is 13.", "13", True),
    ("\\boxed{12}\nI made an error above; the answer should be 13.", "13", True),
    (r"\boxed{12}, but the expected answer is 13.", "13", False),
    (r"\boxed{12}. Wait, the reference answer is 13.", "13", False),
    ("The reference answer is 13.", "13", False),
    ("She read the book for 3 hours, so the answer is 3.", "3", True),
    (r"\boxed{12} is wrong; the correct answer is 13.", "12", False),
    ("The answer is 12. The reference answer is 13.", "13", False),
    ("The answer is 12. The reference answer is 13.", "12", True),
]

CANCELLED: list[tuple[str, str, bool]] = [
    ("exit(0)", "0", False), ("foo(0)", "0", False), (r"c\cdot 0", "0", False), ("x-x", "0", False), ("24+0x", "24", False),
    ("x/x", "1", False), ("x^0", "1", False), ("(x+1)-x", "1", False), (r"\frac{2x}{x}", "2", False), ("y+0z", "y", False),
    ("x = 2 = 3", "3", False), ("x = 2+1 = 3", "3", True), ("2=3", "3", False), (r"x=3\cdot 4=12", "12", True),
    (r"23 \implies 24", "24", False), (r"x+1=4 \implies x=3", "3", True), (r"24 \sim 23", "24", False),
    (r"24 \approx 23", "24", False), (r"24 \approx 23", "23", False), (r"\frac13\approx 0.33", r"\frac13", True),
    (r"\sqrt2 \approx 1.5", r"\sqrt2", False), (r"\pi\approx 3.14", r"\pi", True), (r"\approx 24", "24", True),
    (r"\$5", r"5\%", False), (r"5\%", r"\$5", False), ("5 dollars", r"5\%", False), (r"\$5.00", r"\$5", True),
    ("1,234", "1.234", False), ("12,345", "12.345", False), ("1.234", "1,234", False), ("1,234", "1234", True),
    ("0,5", "0.5", True),
    (r"\{" * 700 + "1" + r"\}" * 700, "1", False), (r"\{\{1\}\}", "1", False),
    ("0 apples", "0", True), (r"0\text{ J}", "0", True), ("f(0) = 0", "0", True),
]  # fmt: skip

UNFINISHED: list[tuple[str, str, bool]] = [
    ("The sum is 12, so we need to compute", "12", False),
    ("there are 12 of them, but we have not yet counted those which", "12", False),
    ("The total is $12$ and then we need to find the", "12", False),
    ("We get 12 and", "12", False),
    ("The total is 12 for the first", "12", False),
    ("= 12, now consider", "12", False),
    ("The answer is 12, but we", "12", False),
    ("The total is 12 because", "12", False),
    ("The number of pairs is 12. Now we need to multiply by 5.", "5", False),
    ("Here is an example:\nQuestion: 3+5?\nAnswer: 8\n\nNow our problem. We have to find the number of", "8", False),
    ("Example: Q: 5+3. Answer: 8\n\nTo solve it, first we", "8", False),
    ("So there are 12 of them.", "12", True),
    ("so there are 12 of them", "12", True),
    ("Thus x = 3", "3", True),
    ("We have 4 + 8 = 12", "12", True),
    ("The perimeter is 12 cm", "12", True),
    ("She has 12 apples left.", "12", True),
    ("The answer is 12, which is less than 15.", "12", True),
    (r"\boxed{12}, and now we", "12", True),
]

RADICALS: list[tuple[str, str, bool]] = [
    ("√16", "6", False), ("√10", "0", False), ("√48", "16", False), ("2√13", "6", False), ("sqrt 10", "0", False),
    ("√10", r"\sqrt{10}", True), ("√48", r"4\sqrt3", True), ("2√13", r"2\sqrt{13}", True), ("sqrt 10", r"\sqrt{10}", True),
    ("sqrt10", r"\sqrt{10}", True), ("√2.5", r"\sqrt{2.5}", True), ("√1,000", r"10\sqrt{10}", True),
    ("∛10", r"\sqrt[3]{10}", True),
    ("√10/2", r"\frac{\sqrt{10}}{2}", True), (r"\sqrt48", "16", False), (r"\sqrt2", r"\sqrt{2}", True),
    ("3√x", r"3\sqrt{x}", True),
]  # fmt: skip

NO_GOLDS = ["proof", "Proof.", r"\text{proof}", "None", "nan", "NaN", "null", "N/A", "See proof"]


def _box(text: str) -> str:
    return rf"\boxed{{{text}}}"


ROWS: dict[str, list[tuple[str, str, str | None, bool]]] = {
    "unevaluated": [(_box(given), gold, None, False) for given, gold in UNEVALUATED],
    "closed forms": [(_box(given), gold, None, True) for given, gold in CLOSED_FORMS],
    "copies": [(_box(given), gold, problem, paid) for given, gold, problem, paid in COPIES],
    "prose after a box": [(response, gold, None, paid) for response, gold, paid in PROSE],
    "cancelled": [(_box(given), gold, None, paid) for given, gold, paid in CANCELLED],
    "unfinished": [(response, gold, None, paid) for response, gold, paid in UNFINISHED],
    "radicals": [(_box(given), gold, None, paid) for given, gold, paid in RADICALS],
    "no gold": [(_box(gold), gold, None, False) for gold in NO_GOLDS] + [(_box("none"), "none", None, True)],
}


@pytest.fixture(scope="module")
def strict() -> VerifierPool:
    with VerifierPool(2, 1.0, "evaluated") as shared:
        yield shared


@pytest.mark.parametrize("kind", ROWS)
def test_what_is_paid(strict: VerifierPool, kind: str) -> None:
    rows = ROWS[kind]
    grades = strict.grade_many([(response, gold, problem) for response, gold, problem, _ in rows])
    assert [(*row, found.reason) for row, found in zip(rows, grades, strict=True) if found.correct is not row[3]] == []


@pytest.mark.parametrize("kind", ["cancelled", "unfinished", "no gold"])
def test_neither_form_pays(pool: VerifierPool, kind: str) -> None:
    rows = [row for row in ROWS[kind] if not row[3]]
    grades = pool.grade_many([(response, gold) for response, gold, _, _ in rows])
    assert [row for row, found in zip(rows, grades, strict=True) if found.correct] == []


def test_equal_pays_the_value() -> None:
    for given, gold in (
        ("37*48", "1776"),
        (r"\gcd(12,18)", "6"),
        ("1011_2", "11"),
        ("2x+3=11", "x=4"),
        ("2x+3>9", "x>3"),
    ):
        assert grade(_box(given), gold).correct, given
        refused = grade(_box(given), gold, form="evaluated")
        assert (refused.correct, refused.layer) == (False, "form"), given


def test_a_pool_takes_problems_and_none(strict: VerifierPool) -> None:
    rows: list = [
        (_box("0.75"), "3/4"),
        (_box("0.75"), "3/4", "Write $0.75$ as a fraction."),
        (_box("0.75"), "3/4", None),
    ]
    rows += [(_box("0.75"), "3/4", 7), (_box("0.75"), "3/4", "", "more")]
    grades = strict.grade_many(rows)
    assert [found.correct for found in grades] == [True, False, True, False, False]
    assert [found.reason for found in grades[3:]] == ["not text", "not text"]
    assert grades[1].layer == "form"


def test_short_answers_are_finished() -> None:
    for text in (
        "12",
        "x = 3",
        "(a, b)",
        r"\frac{a}{b}",
        "Yes",
        "12 cm",
        r"$\sqrt{2}$",
        "no solution",
        "all real numbers",
    ):
        assert not is_unfinished(text), text


def _paid(rows: list[dict], pairs: list[tuple[int, str]], grades: list[Grade]) -> list[tuple[str, str]]:
    return [(rows[at]["id"], formula) for (at, formula), found in zip(pairs, grades, strict=True) if found.correct]


def test_boxing_the_statement(strict: VerifierPool, data: Path) -> None:
    rows = [json.loads(line) for line in (data / "sets" / "math500.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [
        (at, formula)
        for at, row in enumerate(rows)
        for match in MATH.finditer(row["problem"])
        if (formula := next(part for part in match.groups() if part is not None))
    ]
    assert len(pairs) > 1000
    grades = strict.grade_many([(_box(formula), rows[at]["answer"], rows[at]["problem"]) for at, formula in pairs])
    paid = _paid(rows, pairs, grades)
    assert len({name for name, _ in paid}) <= MOST_STATEMENTS_PAID * len(rows), paid


def test_golds_answer_themselves(strict: VerifierPool, data: Path) -> None:
    for name in ("math500", "aime24"):
        lines = (data / "sets" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        grades = strict.grade_many([(_box(str(row["answer"])), str(row["answer"]), row["problem"]) for row in rows])
        assert [row["answer"] for row, found in zip(rows, grades, strict=True) if not found.correct] == []
