"""Values of trees: exact fractions where there are any, complex floats otherwise. Bounded work: what would be a giant
number is not computed."""

import cmath
import math
import zlib
from fractions import Fraction

from pipeline.verify.reading.syntax import Tree, symbols

MOST_BITS = 20_000
"""An exact intermediate result beyond this size is not followed further."""
LARGEST_FACTORIAL = 2000


class NoValueError(ArithmeticError):
    """The tree has no value here (a pole, a variable, too large)."""


def exact(tree: Tree) -> Fraction | None:
    """The rational number that `tree` is, or None where it is not one, or not cheaply."""
    try:
        return _exact(tree)
    except (NoValueError, ZeroDivisionError, OverflowError, ValueError):
        return None


def _sized(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MOST_BITS or value.denominator.bit_length() > MOST_BITS:
        raise NoValueError("too large")
    return value


def _exact(tree: Tree) -> Fraction:
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "neg":
        return -_exact(tree[1])
    if kind == "add":
        total = Fraction(0)
        for part in tree[1]:
            total = _sized(total + _exact(part))
        return total
    if kind == "mul":
        total = Fraction(1)
        for part in tree[1]:
            total = _sized(total * _exact(part))
        return total
    if kind == "pow":
        return _exact_power(_exact(tree[1]), _exact(tree[2]))
    if kind == "root":
        degree = _exact(tree[1])
        if degree == 0:
            raise NoValueError("zeroth root")
        return _exact_power(_exact(tree[2]), 1 / degree)
    if kind == "fn":
        return _exact_function(tree[1], [_exact(part) for part in tree[2]])
    raise NoValueError("not rational")


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        root = _exact_root(base, exponent.denominator)
        return _exact_power(root, Fraction(exponent.numerator))
    if base in (0, 1, -1):
        if base == 0 and exponent < 0:
            raise NoValueError("division by zero")
        return base ** (abs(exponent.numerator) % 2 + (2 if exponent else 0)) if exponent else Fraction(1)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent.numerator) > MOST_BITS:
        raise NoValueError("too large")
    return base**exponent.numerator


def _exact_root(value: Fraction, degree: int) -> Fraction:
    if value < 0 or degree > 64:
        raise NoValueError("not a real root")
    parts = []
    for whole in (value.numerator, value.denominator):
        guess = round(whole ** (1 / degree)) if whole.bit_length() < 900 else 0
        if degree == 2:
            guess = math.isqrt(whole)
        if guess**degree != whole:
            raise NoValueError("irrational")
        parts.append(guess)
    return Fraction(parts[0], parts[1])


def _exact_function(name: str, values: list[Fraction]) -> Fraction:
    x = values[0]
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil"):
        return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name == "mod":
        return x % values[1]
    whole = [int(value) for value in values if value.denominator == 1]
    if len(whole) != len(values):
        raise NoValueError("not whole")
    if name == "factorial" and 0 <= whole[0] <= LARGEST_FACTORIAL:
        return Fraction(math.factorial(whole[0]))
    if name == "binom" and 0 <= whole[1] <= whole[0] <= LARGEST_FACTORIAL:
        return Fraction(math.comb(whole[0], whole[1]))
    if name in ("gcd", "lcm"):
        return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))
    raise NoValueError("not rational")


def approximate(tree: Tree, point: int = 0) -> complex:
    """A float value of `tree`, its variables at the `point`-th of some fixed irrational-looking places.

    Raises NoValueError where there is none; relative error is about 1e-12 where nothing cancels."""
    try:
        value = _approximate(tree, point)
    except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
        raise NoValueError(str(error)) from error
    if not (math.isfinite(value.real) and math.isfinite(value.imag)):
        raise NoValueError("not finite")
    return value


def _place(name: str, point: int) -> float:
    """Between 0.3 and 1.7 (below zero at the `NEGATIVE` points), the same for the same name in every process."""
    return (-1 if point in NEGATIVE else 1) * (
        0.3 + 1.4 * (zlib.crc32(f"{name}/{point}".encode("utf-8", "replace")) % 1_000_003) / 1_000_003
    )


def _approximate(tree: Tree, point: int) -> complex:
    kind = tree[0]
    if kind == "num":
        return complex(float(tree[1]))
    if kind == "sym":
        return complex(_place(tree[1], point))
    if kind == "const":
        if tree[1] == "oo":
            raise NoValueError("infinite")
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[tree[1]]
    if kind == "neg":
        return -_approximate(tree[1], point)
    if kind == "add":
        return sum((_approximate(part, point) for part in tree[1]), 0j)
    if kind == "mul":
        return math.prod((_approximate(part, point) for part in tree[1]), start=1 + 0j)
    if kind in ("pow", "root"):
        base = _approximate(tree[1 if kind == "pow" else 2], point) + 0j  # no -0j, which lies beyond the branch cut
        exponent = _approximate(tree[2], point) if kind == "pow" else 1 / _approximate(tree[1], point)
        if kind == "root" and base.real < 0 and base.imag == 0 and tree[1][0] == "num" and tree[1][1] % 2 == 1:
            return complex(-((-base.real) ** exponent.real))  # the real root, as \sqrt[3]{-8} means
        if base == 0:
            if exponent.real > 0:
                return 0j
            if exponent == 0:
                return 1 + 0j
            raise NoValueError("division by zero")
        return base**exponent
    return _function(tree[1], [_approximate(part, point) for part in tree[2]], point)


def _function(name: str, values: list[complex], point: int) -> complex:
    x = values[0]
    if name.startswith("call:"):
        return cmath.sin(1.3 * sum(v * (k + 1) for k, v in enumerate(values)) + 7 * _place(name, point))
    if name in _SIMPLE:
        return _SIMPLE[name](x)
    if name == "log":
        return cmath.log(x) / cmath.log(values[1])
    if name == "abs":
        return complex(abs(x))
    if any(value.imag for value in values):
        raise NoValueError("not real")
    if name in ("max", "min"):
        reals = [value.real for value in values]
        return complex(max(reals) if name == "max" else min(reals))
    if name == "factorial" and -0.5 < x.real < 150:
        return complex(math.gamma(x.real + 1))
    if name == "binom" and -0.5 < values[1].real <= x.real < 150:
        n, k = x.real, values[1].real
        return complex(math.gamma(n + 1) / math.gamma(k + 1) / math.gamma(n - k + 1))
    if name in ("floor", "ceil"):
        return complex(math.floor(x.real + 1e-12) if name == "floor" else math.ceil(x.real - 1e-12))
    raise NoValueError(name)


_SIMPLE = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "coth": lambda x: 1 / cmath.tanh(x),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "arccot": lambda x: cmath.atan(1 / x),
    "arcsec": lambda x: cmath.acos(1 / x),
    "arccsc": lambda x: cmath.asin(1 / x),
    "arsinh": cmath.asinh,
    "arcosh": cmath.acosh,
    "artanh": cmath.atanh,
    "exp": cmath.exp,
    "ln": cmath.log,
}
POINTS = 4
NEGATIVE = range(POINTS, 2 * POINTS)
"""Places at which every variable is below zero."""


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
        try:
            value = approximate(second)
        except NoValueError:
            return (kind, first, second)
        if value.imag == 0 and value.real < 0:
            return ("neg", (kind, first, ("neg", second)))
    return (kind, first, second)


def agree(a: Tree, b: Tree) -> bool | None:
    """False where the two clearly differ somewhere; True where they agree at every place that was tried (strong
    evidence, no proof); None where neither could be evaluated anywhere."""
    seen = False
    for point in range(POINTS):
        try:
            x, y = approximate(a, point), approximate(b, point)
        except NoValueError:
            continue
        seen = True
        if abs(x - y) > 1e-9 * max(abs(x), abs(y)) + 1e-12:
            return False
    return True if seen else None


def agree_below_zero(a: Tree, b: Tree) -> bool:
    """Whether the two agree at negative places too, as far as both are real there: `|x|` is not `x`."""
    for point in NEGATIVE:
        try:
            x, y = approximate(a, point), approximate(b, point)
        except NoValueError:
            continue
        if abs(x.imag) < 1e-12 and abs(y.imag) < 1e-12 and abs(x - y) > 1e-9 * max(abs(x), abs(y)) + 1e-12:
            return False
    return True


def has_value(tree: Tree) -> bool:
    """Whether `tree` has a finite value at any of the places tried."""
    for point in range(POINTS):
        try:
            approximate(tree, point)
            return True
        except NoValueError:
            continue
    return False


def ratio(a: Tree, b: Tree) -> complex | None:
    """The constant c with a = c * b, as far as the places tried show; None where there is none."""
    found: complex | None = None
    for point in range(POINTS):
        try:
            x, y = approximate(a, point), approximate(b, point)
        except NoValueError:
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
