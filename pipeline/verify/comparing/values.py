r"""Computes values of trees at fixed points, in four arithmetics: real or complex, in doubles or to many digits.

Mathematics on paper is real unless it writes `i`: there `\sqrt{-2}` has no value, and `\sqrt[3]{-8}` is -2. The complex
arithmetics take principal values, and serve what is never real.
"""

import cmath
import math
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from pipeline.verify.comparing.evaluate import exact
from pipeline.verify.reading.syntax import Tree

LOCK = threading.RLock()
"""mpmath keeps its working precision in an object that its functions change."""


class NoValueError(ArithmeticError):
    """The tree has no value here (a pole, outside of the domain, too large)."""


class OutOfRangeError(NoValueError):
    """A number on the way is too large or too small, or a sum too small beside its terms, to show in the digits."""


@dataclass(frozen=True)
class Arithmetic:
    """Numbers of one kind, and functions of them."""

    real: bool
    number: Callable[[Any], Any]
    """Of an int, a float or a Fraction."""
    library: Any
    """math, cmath, or a context of mpmath."""
    largest: float
    """Numbers beyond this, or below its inverse, are out of range."""
    least_share: float = 0.0
    """Sums below this share of their largest term are out of range."""

    def __call__(self, tree: Tree, point: int = 0) -> Any:
        """The value of `tree` at `point`. Raises NoValueError where there is none."""
        try:
            found = self._value(tree, point)
        except NoValueError:
            raise
        except (ArithmeticError, ValueError, TypeError) as error:
            raise NoValueError(str(error)) from error
        if isinstance(found, float) and not math.isfinite(found):
            raise NoValueError("not finite")
        if isinstance(found, complex) and not cmath.isfinite(found):
            raise NoValueError("not finite")
        return found

    def _value(self, tree: Tree, point: int) -> Any:
        kind = tree[0]
        if kind == "num":
            return self._sized(self.number(tree[1]))
        if kind == "sym":
            return self.number(place(tree[1], point))
        if kind == "neg":
            return -self._value(tree[1], point)
        if kind == "add":
            terms = [self._value(part, point) for part in tree[1]]
            total = sum(terms, self.number(0))
            if self.least_share and total and abs(total) < self.least_share * max(map(abs, terms)):
                raise OutOfRangeError("cancelled")
            return total
        if kind == "mul":
            product = self.number(1)
            for part in tree[1]:
                product = product * self._value(part, point)
            return self._sized(product)
        if kind == "const":
            return self._constant(tree[1])
        if kind in ("pow", "root"):
            return self._sized(self._power(kind, tree, point))
        return self._sized(self._function(tree[1], [self._value(part, point) for part in tree[2]], point))

    def _sized(self, value: Any) -> Any:
        if value and not 1 / self.largest < abs(value) < self.largest:
            raise OutOfRangeError("out of range")
        return value

    def _constant(self, name: str) -> Any:
        if name in ("pi", "e"):
            return self.number(1) * getattr(self.library, name)
        if name == "i" and not self.real:
            return self.number(1j)
        raise NoValueError(name)

    def _power(self, kind: str, tree: Tree, point: int) -> Any:
        base = self._value(tree[1 if kind == "pow" else 2], point) + self.number(0)  # no -0j, beyond the branch cut
        shown = tree[2 if kind == "pow" else 1]
        exponent = self._value(shown, point) if kind == "pow" else 1 / self._value(shown, point)
        if base == 0:
            if self._part(exponent) <= 0 and exponent != 0:
                raise NoValueError("division by zero")
            return self.number(0 if exponent else 1)
        if self._part(base) < 0 and (self.real or (kind == "root" and base.imag == 0)):
            return self._of_negative(kind, base, exponent, shown)
        return base**exponent

    def _of_negative(self, kind: str, base: Any, exponent: Any, shown: Tree) -> Any:
        """Odd roots of negative numbers are real: `\\sqrt[3]{-8}` is -2."""
        rational = exact(shown)
        if rational is not None and kind == "root" and rational:
            rational = 1 / rational
        if rational is None or rational.denominator % 2 == 0:
            if self.real:
                raise NoValueError("not real")
            return base**exponent
        size = (-base) ** exponent
        return -size if rational.numerator % 2 else size

    def _part(self, value: Any) -> Any:
        return value if self.real else value.real

    def _function(self, name: str, values: list[Any], point: int) -> Any:
        x = values[0]
        if name in _NAMES:
            return self._named(name, x)
        if name.startswith("call:"):
            return self.library.sin(
                sum(value * (k + 1) for k, value in enumerate(values)) * self.number(1.3)
                + self.number(7 * place(name, point))
            )
        if name == "log":
            return self._log(x) / self._log(values[1])
        if name == "ln":
            return self._log(x)
        if name == "abs":
            return self.number(1) * abs(x)
        if any(getattr(value, "imag", 0) for value in values):
            raise NoValueError("not real")
        return self.number(1) * self._of_reals(name, [self._part(value) for value in values])

    def _log(self, x: Any) -> Any:
        if self.real and x <= 0:
            raise NoValueError("not real")
        return self.library.log(x)

    def _named(self, name: str, x: Any) -> Any:
        inverted, ours = _NAMES[name]
        if name.startswith("arc") or name == "artanh":
            if name in ("arccot", "arcsec", "arccsc"):
                x = 1 / x
            if self.real and ours in ("asin", "acos") and abs(x) > 1:
                raise NoValueError("not real")
            if self.real and ((ours == "acosh" and x < 1) or (ours == "atanh" and abs(x) >= 1)):
                raise NoValueError("not real")
        if ours == "tanh" and self.least_share and abs(x) > 10:
            raise OutOfRangeError("too close to 1")
        found = getattr(self.library, ours)(x)
        return 1 / found if inverted else found

    def _of_reals(self, name: str, values: list[Any]) -> Any:
        x = values[0]
        library = math if self.library in (math, cmath) else self.library
        if name in ("max", "min"):
            return max(values) if name == "max" else min(values)
        if name == "factorial" and -0.5 < x < 150:
            return library.gamma(x + 1)
        if name == "binom" and -0.5 < values[1] <= x < 150:
            n, k = values
            return library.gamma(n + 1) / (library.gamma(k + 1) * library.gamma(n - k + 1))
        if name in ("floor", "ceil"):
            return library.floor(x + 1e-12) if name == "floor" else library.ceil(x - 1e-12)
        if name == "mod" and values[1] > 0:
            return x - values[1] * library.floor(x / values[1])
        raise NoValueError(name)


_NAMES = {
    "sin": (False, "sin"), "cos": (False, "cos"), "tan": (False, "tan"), "cot": (True, "tan"), "sec": (True, "cos"),
    "csc": (True, "sin"), "sinh": (False, "sinh"), "cosh": (False, "cosh"), "tanh": (False, "tanh"), "coth": (True, "tanh"),
    "arcsin": (False, "asin"), "arccos": (False, "acos"), "arctan": (False, "atan"), "arccot": (False, "atan"),
    "arcsec": (False, "acos"), "arccsc": (False, "asin"), "arsinh": (False, "asinh"), "arcosh": (False, "acosh"),
    "artanh": (False, "atanh"), "exp": (False, "exp"),
}  # fmt: skip
"""Our name: whether it is the inverse of a value, and the library's name."""

REAL = Arithmetic(True, float, math, 1e300)
COMPLEX = Arithmetic(False, complex, cmath, 1e300)


@cache
def precise(real: bool, digits: int, largest: float, least_share: float) -> Arithmetic:
    """An arithmetic with this many digits, for use under `LOCK`."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.dps = digits

    def number(value: Any) -> Any:
        if isinstance(value, Fraction):
            value = context.mpf(value.numerator) / value.denominator
        return context.mpf(value) if real else context.mpc(value)

    return Arithmetic(real, number, context, largest, least_share)


POINTS = 4
"""The first places: every variable between 0.3 and 1.7."""
NEGATIVE = range(POINTS, 2 * POINTS)
"""Places at which every variable is below zero."""
WIDE = range(2 * POINTS, 2 * POINTS + 24)
"""Places of all sizes and signs, one for each variable."""
_SIZES = (0.6, 2.5, 0.15, 4.0, 9.0, 30.0, 0.02, 140.0)


def place(name: str, point: int) -> float:
    """The value of variable `name` at `point`: irrational-looking, the same in every process."""
    share = (zlib.crc32(f"{name}/{point}".encode("utf-8", "replace")) % 1_000_003) / 1_000_003
    if point < POINTS:
        return 0.3 + 1.4 * share
    if point in NEGATIVE:
        return -0.3 - 1.4 * share
    size = _SIZES[point % len(_SIZES)] * (0.5 + share)
    return -size if point % 3 == 0 and share > 0.3 else size
