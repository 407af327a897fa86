r"""Compares trees at places: in doubles, which refutes in microseconds, and to many digits, which settles identities.

Two expressions are compared where both are real. Where they never are, or where one of them writes `i`, complex principal
values are compared. Agreement to `DIGITS` digits at many places, of all sizes and signs, is taken as equality: every number
on the way is large enough that those digits show it.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from pipeline.verify.comparing.values import (
    COMPLEX,
    NEGATIVE,
    POINTS,
    REAL,
    WIDE,
    Arithmetic,
    NoValueError,
    exclusive,
    precise,
)
from pipeline.verify.reading.syntax import Tree, children, symbols

ENOUGH = 6
"""Common places that settle an identity."""
DIGITS = 640
"""Numbers between 1e-300 and 1e300 may meet in one sum: with this many digits, each of them shows."""
_VISIBLE = 320
"""Decimal places of a difference: rounding errors stay below them, no number on the way does."""


def agree(a: Tree, b: Tree) -> bool | None:
    """False where the two clearly differ somewhere; True where they agree at every place that was tried (strong
    evidence, no proof); None where neither could be evaluated anywhere."""
    if not _variables(a, b):
        found = None if _complex(a, b) else _agree_at([0], a, b, REAL)
        return _agree_at([0], a, b, COMPLEX) if found is None else found
    if _complex(a, b):
        return _agree_at(range(POINTS), a, b, COMPLEX)
    found = _agree_at(range(POINTS), a, b, REAL)
    if found is None:
        found = _agree_at(WIDE, a, b, REAL)
    return _agree_at(range(POINTS), a, b, COMPLEX) if found is None else found


def _agree_at(points: Iterable[int], a: Tree, b: Tree, on: Arithmetic) -> bool | None:
    seen = False
    for point in points:
        try:
            x, y = on(a, point), on(b, point)
        except NoValueError:
            continue
        seen = True
        if abs(x - y) > 1e-9 * max(abs(x), abs(y)) + 1e-12:
            return False
    return True if seen else None


def settled(a: Tree, b: Tree) -> bool | None:
    """Whether the two are equal, decided to `DIGITS` digits; None where there are too few places with values."""
    with exclusive():
        if not _variables(a, b):
            on = precise(not _complex(a, b), DIGITS)
            found = _same_digits(a, b, [0], on, 1)
            return _same_digits(a, b, [0], precise(False, DIGITS), 1) if found is None and on.real else found
        points = [*range(POINTS), *NEGATIVE, *WIDE]
        if _complex(a, b):
            return _same_digits(a, b, points, precise(False, DIGITS), ENOUGH)
        found = _same_digits(a, b, points, precise(True, DIGITS), ENOUGH)
        return _same_digits(a, b, points, precise(False, DIGITS), ENOUGH) if found is None else found


def _same_digits(a: Tree, b: Tree, points: Iterable[int], on: Arithmetic, enough: int) -> bool | None:
    absolute = on.real and _has(a, "abs") != _has(b, "abs")
    seen = 0
    for point in points:
        values = [_value(tree, point, on) for tree in (a, b)]
        if values[0] is None or values[1] is None:
            if absolute and (values[0] is None) != (values[1] is None):
                return False  # `\ln|x|` goes on where `\ln x` ends
            continue
        x, y = values
        if abs(x - y) > on.library.mpf(10) ** -_VISIBLE:
            return False
        seen += 1
    return True if seen >= enough else None


def _value(tree: Tree, point: int, on: Arithmetic) -> Any:
    try:
        return on(tree, point)
    except NoValueError:
        return None


def _variables(*trees: Tree) -> bool:
    return any(symbols(tree) for tree in trees)


def _complex(*trees: Tree) -> bool:
    return any(_has(tree, "i") for tree in trees)


def _has(tree: Tree, name: str) -> bool:
    """Whether the function or constant `name` is in `tree`."""
    return (tree[0] in ("const", "fn") and tree[1] == name) or any(_has(part, name) for part in children(tree))


def real_value(tree: Tree) -> float | None:
    """The value of a tree without variables, as a double; None where it has none or is not real."""
    try:
        return float(REAL(tree)) if not _complex(tree) else _without_imaginary(COMPLEX(tree))
    except NoValueError:
        return None


def _without_imaginary(value: complex) -> float | None:
    return value.real if abs(value.imag) < 1e-12 else None


def has_value(tree: Tree) -> bool:
    """Whether `tree` has a finite value at any of the places tried."""
    points = range(POINTS) if symbols(tree) else range(1)
    return any(_value(tree, point, COMPLEX) is not None for point in points)


def ratio(a: Tree, b: Tree) -> complex | None:
    """The constant c with a = c * b, as far as the places tried show; None where there is none."""
    found: complex | None = None
    on = COMPLEX
    for point in range(POINTS):
        x, y = _value(a, point, on), _value(b, point, on)
        if x is None or y is None:
            continue
        if abs(y) < 1e-9 or abs(x) < 1e-9:
            if abs(x) < 1e-9 and abs(y) < 1e-9:
                continue
            return None
        quotient = x / y
        if found is not None and abs(quotient - found) > 1e-8 * abs(found):
            return None
        found = quotient
    return found


def multiple(a: Tree, b: Tree, factor: Fraction) -> bool | None:
    """Whether a = factor * b, settled to many digits."""
    return settled(a, ("mul", [("num", factor), b]))


def with_real_roots(tree: Tree) -> Tree:
    r"""Odd roots of negative numbers turned about: `\sqrt[3]{-8}` is -2 on paper and a complex number to sympy."""
    kind = tree[0]
    if kind in ("add", "mul"):
        return (kind, [with_real_roots(part) for part in tree[1]])
    if kind == "fn":
        return (kind, tree[1], [with_real_roots(part) for part in tree[2]])
    if kind == "neg":
        return (kind, with_real_roots(tree[1]))
    if kind not in ("pow", "root"):
        return tree
    first, second = with_real_roots(tree[1]), with_real_roots(tree[2])
    if kind == "root" and first[0] == "num" and first[1] % 2 == 1 and not symbols(second):
        value = real_value(second)
        if value is not None and value < 0:
            return ("neg", (kind, first, ("neg", second)))
    return (kind, first, second)
