"""grade_pair: extraction and the layers, in one process."""

import re
from collections.abc import Callable
from fractions import Fraction

from pipeline.verify.types import Conventions, Grade

Symbolic = Callable[[str, str], bool | None]


def grade_pair(response: str, gold: str, conventions: Conventions, symbolic: Symbolic) -> Grade:
    at = response.rfind("\\boxed{")
    if at < 0:
        return Grade(False, None, "no final answer", "extract")
    answer = response[at + 7 :].split("}")[0].strip()
    if answer == gold.strip():
        return Grade(True, answer, "equal", "string")
    pattern = r"-?\d+(\.\d+)?(/\d+)?"
    if re.fullmatch(pattern, answer) and re.fullmatch(pattern, gold.strip()):
        same = Fraction(answer) == Fraction(gold.strip())
        return Grade(same, answer, "equal" if same else "different", "number")
    return Grade(False, answer, "different", "string")
