r"""Compares trees at fixed points: in doubles, which refutes in microseconds, and to many digits, which settles identities.

Two expressions are compared where both are real. Where they never are, or where one of them writes `i`, complex principal
values are compared. Agreement to many digits at places of all sizes and signs is taken as equality: every number on the
way is large enough to show in those digits, and what is not goes on to the next precision, and then to sympy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.verify.comparing.values import (
    COMPLEX,
    LOCK,
    POINTS,
    REAL,
    WIDE,
    Arithmetic,
    NoValueError,
    OutOfRangeError,
    precise,
)
from pipeline.verify.reading.syntax import Tree, children, symbols

ENOUGH = 6
"""An identity is settled by its values at this many points (of both signs, if there are points of both)."""
_ORDER = [0, 4, 1, 5, *WIDE, 2, 6, 3, 7]
"""Places of both signs first."""


@dataclass(frozen=True)
class _Precision:
    digits: int
    largest: float
    least_share: float
    places: int
    """A difference shows within these decimal places; rounding errors stay below."""

    def arithmetic(self, real: bool) -> Arithmetic:
        return precise(real, self.digits, self.largest, self.least_share)


_PRECISIONS = [_Precision(60, 1e9, 1e-9, 30), _Precision(640, 1e300, 1e-250, 320)]
"""The second takes ten times as long and is used where the first cannot show a number."""


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
    """Whether the two are equal, to many digits; None where there are too few places at which both have values."""
    with LOCK:
        places, enough = (_ORDER, ENOUGH) if _variables(a, b) else ([0], 1)
        found = None if _complex(a, b) else _settled_at(a, b, places, True, enough)
        return _settled_at(a, b, places, False, enough) if found is None else found


def _settled_at(a: Tree, b: Tree, points: Iterable[int], real: bool, enough: int) -> bool | None:
    absolute = real and _has(a, "abs") != _has(b, "abs")
    seen = 0
    for point in points:
        same, mismatch = _same_digits(a, b, point, real)
        if same is False or (absolute and mismatch):
            return False  # `\ln|x|` goes on where `\ln x` ends
        seen += same is True
        if seen == enough:
            return True
    return None


def _same_digits(a: Tree, b: Tree, point: int, real: bool) -> tuple[bool | None, bool]:
    """(whether the two agree at `point`, None where they cannot be compared; whether only one has a value there)."""
    for precision in _PRECISIONS:
        on = precision.arithmetic(real)
        values = []
        try:
            for tree in (a, b):
                values.append(_value(tree, point, on))
        except OutOfRangeError:
            continue
        x, y = values
        if x is None or y is None:
            return None, (x is None) != (y is None)
        return bool(abs(x - y) <= on.library.mpf(10) ** -precision.places), False
    return None, False


def _value(tree: Tree, point: int, on: Arithmetic) -> Any:
    """Raises OutOfRangeError; None where there is no value for another reason."""
    try:
        return on(tree, point)
    except OutOfRangeError:
        raise
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
    return any(_double(tree, point) is not None for point in (range(POINTS) if symbols(tree) else range(1)))


def _double(tree: Tree, point: int) -> complex | None:
    try:
        return complex(COMPLEX(tree, point))
    except NoValueError:
        return None


def ratio(a: Tree, b: Tree) -> complex | None:
    """The constant c with a = c * b at all points tried; None if there is no such constant."""
    found: complex | None = None
    for point in range(POINTS):
        x, y = _double(a, point), _double(b, point)
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
    r"""Rewrites odd roots of negative numbers: `\sqrt[3]{-8}` is -2 on paper and a complex number to sympy."""
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
