r"""The last layer: latex2sympy2 reads, sympy decides. Runs in workers only: both can be made to hang.

No string that came from a model is ever evaluated as Python: `load` closes the ways of both libraries to do so
(sealing.py), and the worker's audit hook (jail.py) refuses to compile any source text at all.
latex2sympy2 also keeps global state that an input can spoil (`x = 3` binds x, `dx` overwrites the table of
variables), so the state is laid anew before every reading.
"""

import re
from typing import Any

from pipeline.verify import evaluate, printing, syntax
from pipeline.verify.scan import find_top
from pipeline.verify.sealing import seal

LONGEST = 1200
"""Characters of one side; ANTLR's look-ahead is worse than linear."""
_LETTER_COMMANDS = re.compile(r"\\(?:variable|mathit|operatorname|bm|text)(?![A-Za-z])")
_MOST_TERMS = 60
"""sympy operations above this count are compared by value and expansion only: `simplify` would take minutes."""

_TWO_NUMBERS = re.compile(r"\d[\s'~]+\d|\.\.|'|~")
"""It takes `12 13` for a product, and reads past marks that it does not know."""
_END = -1
"""ANTLR's token type for the end of the input."""
_streams: list[Any] = []
"""The token stream of the last reading: its grammar does not ask that all of the input be read."""

_l2s: Any = None
_sympy: Any = None


def load() -> None:
    """Import both libraries, close their ways to `eval`, and warm the grammar's tables (shared by all forks)."""
    global _l2s, _sympy
    if _l2s is not None:
        return
    import latex2sympy2
    import sympy

    _l2s, _sympy = latex2sympy2, sympy
    seal(sympy, latex2sympy2)
    make_stream = latex2sympy2.CommonTokenStream

    def remembered(lexer: Any) -> Any:
        _streams.append(make_stream(lexer))
        return _streams[-1]

    latex2sympy2.CommonTokenStream = remembered
    for sample in _SAMPLES:
        _read(sample)


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


def _read(latex: str) -> Any:
    """latex2sympy2's reading, or None. Its module state is laid anew first."""
    if len(latex) > LONGEST or _LETTER_COMMANDS.search(latex) or _TWO_NUMBERS.search(latex):
        return None
    if "=" in latex and find_top(latex, {"="}):  # `x = 12` would come back as 12
        return None
    _streams.clear()
    _l2s.variances = {}
    _l2s.var = {}
    _l2s.VARIABLE_VALUES = {}
    try:
        found = _l2s.latex2sympy(latex)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # its grammar raises bare Exception for every input that it does not know
        return None
    if isinstance(found, (list, tuple, dict, str, _sympy.logic.boolalg.Boolean)) or found is None:
        return None
    if not _streams or _streams.pop().LA(1) != _END:  # it stopped early: `12 \\ 13` is not 12
        return None
    return found


def read(cleaned: str) -> Any:
    """A sympy object for a cleaned scalar, or None where neither spelling of it can be read."""
    load()
    try:
        spelled = printing.latex(evaluate.with_real_roots(syntax.parse(cleaned)))
    except (SyntaxError, RecursionError):
        spelled = cleaned
    found = _read(spelled)
    if found is None and spelled != cleaned:
        found = _read(cleaned)
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
