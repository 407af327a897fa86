r"""Asks sympy, as the last layer, about what latex2sympy2 reads. Runs in workers only: both can be made to hang.

No string that came from a model is ever evaluated as Python: `load` closes the ways of both libraries to do so
(sealing.py), and the worker's audit hook (jail.py) refuses to compile any source text at all.
"""

from typing import Any

from pipeline.verify.comparing import printing, reader, sampling
from pipeline.verify.comparing.sealing import seal
from pipeline.verify.reading import syntax

_MOST_TERMS = 60
"""sympy operations above this count are compared by value and expansion only: `simplify` would take minutes."""

_sympy: Any = None


def load() -> None:
    """Imports both libraries, closes their ways to `eval`, and warms the grammar's tables (shared by all forks)."""
    global _sympy
    if _sympy is not None:
        return
    import latex2sympy2
    import sympy

    _sympy = sympy
    seal(sympy, latex2sympy2)
    reader.attach(latex2sympy2)
    for sample in _SAMPLES:
        reader.read(sample)


_SAMPLES = [
    r"\frac{3\sqrt{2}}{4}",
    r"(x+1)\cdot(x-1)",
    r"x^{2}+2x+1",
    r"\sin(x)+\cos(x)",
    r"\sqrt[3]{2}",
    r"\log_{2}(8)",
    r"5!",
    r"|x|",
    r"\pi r^{2}",
    r"\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}",
]


def forget() -> None:
    """Drops the remembered readings (for measurements, whose rows repeat)."""
    reader.read.cache_clear()


def read(cleaned: str) -> Any:
    """A sympy object for a cleaned scalar, or None where neither spelling of it can be read."""
    load()
    try:
        spelled = printing.latex(sampling.with_real_roots(syntax.parse(cleaned)))
    except (SyntaxError, RecursionError):
        spelled = cleaned
    found = reader.read(spelled)
    if found is None and spelled != cleaned:
        found = reader.read(cleaned)
    return found


def equal(left: str, right: str) -> bool | None:
    """Whether two cleaned scalars are equal; None where that cannot be decided."""
    a, b = read(left), read(right)
    if a is None or b is None:
        return None
    if a == b:
        return True
    if getattr(a, "is_Matrix", False) or getattr(b, "is_Matrix", False):
        return _matrices_equal(a, b)
    return _is_zero(a, b)


def _matrices_equal(a: Any, b: Any) -> bool | None:
    try:
        left, right = _sympy.Matrix(a.doit()), _sympy.Matrix(b.doit())
    except (TypeError, ValueError, AttributeError):  # a matrix and a scalar, or symbols for whole matrices
        return False
    if left.shape != right.shape:
        return False
    return all(_is_zero(x, y) is True for x, y in zip(list(left), list(right), strict=True))


def _is_zero(a: Any, b: Any) -> bool | None:
    difference = (a - b).doit() if (a - b).count_ops() <= 400 else a - b
    if difference == 0:
        return True
    expanded = _sympy.expand(difference)
    if expanded == 0:
        return True
    # Most identities fall to exponentials in a few milliseconds; `simplify` takes fifty.
    trigonometric = _sympy.functions.elementary.trigonometric.TrigonometricFunction
    if expanded.has(trigonometric) and _sympy.expand(expanded.rewrite(_sympy.exp)) == 0:
        return True
    if not expanded.free_symbols:
        value = _value(expanded)
        if value is not None and abs(value) > 1e-12:
            return False
        if expanded.is_rational is False and expanded.equals(0) is False:
            return False
    if difference.count_ops() > _MOST_TERMS:
        return True if expanded.equals(0) else None
    simplified = _sympy.simplify(difference)
    if simplified == 0:
        return True
    verdict = simplified.equals(0)
    return None if verdict is None else bool(verdict)


def _value(expression: Any) -> complex | None:
    try:
        return complex(expression.evalf(30, maxn=200))
    except (TypeError, ValueError):
        return None


def proportional(left: str, right: str, positive: bool) -> bool | None:
    """Whether left = c * right for a constant c (above zero, if `positive`), so that `left = 0` and `right = 0` (or
    `left < 0` and `right < 0`) say the same."""
    a, b = read(left), read(right)
    if a is None or b is None or getattr(a, "is_Matrix", False) or getattr(b, "is_Matrix", False):
        return None
    if b == 0:
        return bool(a == 0)
    quotient = _sympy.cancel(_sympy.together(_sympy.expand(a) / _sympy.expand(b)))
    if quotient.free_symbols:
        quotient = _sympy.simplify(quotient)
    if quotient.free_symbols or quotient == 0:
        return False
    return bool(quotient.is_positive) if positive else True


def ask(question: str, left: str, right: str) -> bool | None:
    """`equal`, `proportional` or `proportional+` by name; None where it cannot be decided."""
    try:
        if question == "equal":
            return equal(left, right)
        return proportional(left, right, question.endswith("+"))
    except (MemoryError, RecursionError):
        raise
    except (
        Exception
    ):  # sympy's algorithms raise whatever they meet: PolynomialError, TypeError, NotImplementedError, ...
        return None
