"""Every gold of the real sets equals itself and its usual rewritings, in a box and in a sentence."""

import json
import re
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.verify import VerifierPool

SETS = ["math_train", "math500", "gsm8k_train", "gsm8k_test", "aime24", "aime_1983_2023", "dapo_math_17k"]


@pytest.mark.parametrize("name", SETS)
def test_golds(pool: VerifierPool, data: Path, name: str) -> None:
    lines = (data / "sets" / f"{name}.jsonl").read_text("utf-8").strip().split("\n")
    golds = [gold for gold in dict.fromkeys(str(json.loads(line)["answer"]) for line in lines) if gold.strip()]
    for frame in (r"So it is \boxed{%s}.", "The final answer is $%s$."):
        pairs = [(frame.replace("%s", spelled), gold) for gold in golds for spelled in rewritings(gold)]
        missed = [pair for pair, grade in zip(pairs, pool.grade_many(pairs), strict=True) if not grade.correct]
        missed = [pair for pair in missed if "boxed" in frame or not _cut_short(pair[0])]
        assert missed == []


def _cut_short(sentence: str) -> bool:
    """A sentence ends at the point of `sq. units`, and a formula in single dollars does not run over lines."""
    return "sq. units" in sentence or "\n" in sentence


def rewritings(gold: str) -> list[str]:
    """Other spellings of the same answer."""
    found = [gold, f" {gold} ", gold.replace(r"\frac", r"\dfrac"), gold.replace(r"\dfrac", r"\frac")]
    found += [gold.replace(r"\left", "").replace(r"\right", "") if "row" not in gold else gold]
    found += [re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold), gold.replace(r"\sqrt{", r"\sqrt {")]
    if "\\" in gold and r"\text" not in gold and r"\!" not in gold:
        found.append(re.sub(r"([-+=,])", r" \1 ", gold))
    if re.fullmatch(r"-?\d+", gold):
        found += [f"{gold}.0", f"{gold}.00", f"{int(gold):,}", f"${gold}$"]
    if re.fullmatch(r"-?\d+\.\d+", gold):
        value = Fraction(gold)
        found += [f"{gold}0", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    if match := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", gold):
        found += _of_fraction(match[1], int(match[2]), int(match[3]))
    return list(dict.fromkeys(found))


def _of_fraction(sign: str, above: int, below: int) -> list[str]:
    found = [
        f"{sign}{above}/{below}",
        rf"\frac{{{sign}{above}}}{{{below}}}",
        rf"{sign}\frac{{{2 * above}}}{{{2 * below}}}",
    ]
    rest = Fraction(above, below).denominator
    while rest % 10 in (0, 2, 4, 5, 6, 8) and rest > 1:
        rest //= 2 if rest % 2 == 0 else 5
    if rest == 1:  # a finite decimal
        getcontext().prec = 60
        found.append(f"{sign}{Decimal(above) / Decimal(below)}")
    return found
