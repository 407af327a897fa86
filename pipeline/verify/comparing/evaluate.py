"""Computes the exact rational value of a tree. The work is bounded: a giant number is not computed."""

import math
from fractions import Fraction

from pipeline.verify.reading.syntax import Tree

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
