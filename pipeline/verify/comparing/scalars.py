"""Compares two scalars: as strings, exactly as fractions, by value (which refutes), and symbolically as the last resort."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from pipeline.verify.comparing import algebra, evaluate, sampling
from pipeline.verify.reading import syntax
from pipeline.verify.reading.nodes import Scalar
from pipeline.verify.reading.normalize import key
from pipeline.verify.reading.numbers import Number, numbers_equal, parse_number, rounds_to
from pipeline.verify.reading.units import conflict, is_known
from pipeline.verify.types import Conventions

DIGITS_OF_A_PAIR = 6
"""Two decimals of different length: the shorter needs as many significant digits for the longer to round to it."""
_LAYERS = ["string", "number", "structure", "value", "symbolic"]


class Scalars:
    """Compares scalars by the conventions, and remembers the deepest layer that it had to use."""

    def __init__(self, conventions: Conventions, ask: Callable[[str, str, str], bool | None]) -> None:
        self.conventions = conventions
        self.layer = "string"
        self.unread = ""
        self._ask = ask
        self._digits = conventions.digits
        self._trees: dict[str, syntax.Tree | None] = {}

    def note(self, layer: str) -> None:
        if _LAYERS.index(layer) > _LAYERS.index(self.layer):
            self.layer = layer

    @contextlib.contextmanager
    def entries(self) -> Iterator[None]:
        """Inside a matrix, decimals may be rounded as entries of matrices are."""
        before, self._digits = self._digits, self.conventions.digits_entry
        try:
            yield
        finally:
            self._digits = before

    def tree(self, text: str) -> syntax.Tree | None:
        if text not in self._trees:
            try:
                self._trees[text] = syntax.parse(text)
            except (SyntaxError, RecursionError):
                self._trees[text] = None
        return self._trees[text]

    def variables(self, scalar: Scalar) -> bool:
        if scalar.number is not None:
            return False
        tree = self.tree(scalar.text)
        return tree is None or bool(syntax.symbols(tree))

    def names(self, text: str) -> set[str]:
        """The variables of `text`; empty also where it cannot be read."""
        tree = self.tree(text)
        return set() if tree is None else set(syntax.symbols(tree))

    def equal(self, a: Scalar, b: Scalar) -> bool:
        if self.conventions.units == "same" and a.unit != b.unit:
            return False
        if a.unit != b.unit and "degree" in (a.unit, b.unit) and self._as_radians(a, b):
            return True
        if conflict(a.unit, b.unit):
            return False
        if a.percent != b.percent:
            if is_known(a.unit) or is_known(b.unit):  # `\$5` is not `5\%`
                return False
            plain, percent = (b, a) if a.percent else (a, b)
            if self.conventions.percent == "same":
                return False
            hundredth = replace(percent, text=f"({percent.text})/100", number=_hundredth(percent.number), percent=False)
            if self._values(plain, hundredth):
                return True
            return self.conventions.percent == "either" and self._values(plain, percent)
        return self._values(a, b)

    def _as_radians(self, a: Scalar, b: Scalar) -> bool:
        r"""Whether one is an angle in degrees and the other the same in radians: `60^\circ` is `\frac{\pi}{3}`."""
        degrees, other = (a, b) if a.unit == "degree" else (b, a)
        if self.conventions.degrees != "either" or other.unit not in ("", "radian"):
            return False
        if not other.unit and "\\pi" not in other.text:
            return False
        value = str(degrees.number.value) if degrees.number is not None else degrees.text
        return self._values(Scalar(f"({value})\\cdot\\pi/180"), replace(other, unit=""))

    def _values(self, a: Scalar, b: Scalar) -> bool:
        if a.number is not None and b.number is not None:
            self.note("number")
            return numbers_equal(a.number, b.number, self._digits, DIGITS_OF_A_PAIR)
        if key(a.text) == key(b.text):
            return True
        return self.expressions(a, b)

    def expressions(self, a: Scalar, b: Scalar) -> bool:
        left, right = (("num", s.number.value) if s.number is not None else self.tree(s.text) for s in (a, b))
        if left is None or right is None:
            return self._unreadable(a.text, b.text)
        exact_left = a.number or _as_number(evaluate.exact(left))
        exact_right = b.number or _as_number(evaluate.exact(right))
        self.note("number")
        if exact_left is not None and exact_right is not None:
            return numbers_equal(exact_left, exact_right, self._digits, DIGITS_OF_A_PAIR)
        if self._rounded(exact_left, right) or self._rounded(exact_right, left):
            return True
        self.note("value")
        agreed = sampling.agree(left, right)
        if agreed is False or (agreed is None and sampling.has_value(left) != sampling.has_value(right)):
            return False  # also a number against what overflows or is not defined anywhere
        if algebra.equal(left, right):
            return True
        settled = sampling.settled(left, right)
        return self.ask("equal", a.text, b.text) is True if settled is None else settled

    def _unreadable(self, a: str, b: str) -> bool:
        """At least one is beyond our grammar; latex2sympy2 may know it."""
        self.unread = self.unread or "grammar"
        if not _worth_asking(a) or not _worth_asking(b):
            return False
        return self.ask("equal", a, b) is True

    def _rounded(self, number: Number | None, tree: syntax.Tree) -> bool:
        """Whether `number` is a decimal that rounds the irrational value of `tree`."""
        if number is None or number.places is None or number.digits < self._digits or syntax.symbols(tree):
            return False
        value = sampling.real_value(tree)
        return value is not None and rounds_to(value, number)

    def symbolic_equal(self, a: str, b: str) -> bool:
        return self.ask("equal", a, b) is True

    def proportional(self, a: str, b: str, positive: bool) -> bool:
        """Whether `a` is a constant multiple of `b` (a positive one)."""
        left, right = self.tree(a), self.tree(b)
        if left is not None and right is not None:
            self.note("value")
            if not positive and algebra.same_zeros(left, right):
                return True
            ratio = sampling.ratio(left, right)
            if ratio is None or (positive and not (abs(ratio.imag) < 1e-9 and ratio.real > 0)):
                return False
            factor = Fraction(ratio.real).limit_denominator(10_000)
            if factor and algebra.equal(left, ("mul", [("num", factor), right])):
                return True
            if factor and sampling.multiple(left, right, factor):
                return True
        return self.ask("proportional+" if positive else "proportional", a, b) is True

    def ask(self, question: str, a: str, b: str) -> bool | None:
        self.note("symbolic")
        verdict = self._ask(question, a, b)
        if verdict is None:
            self.unread = "symbolic"
        return verdict


def _hundredth(number: Number | None) -> Number | None:
    if number is None:
        return None
    return Number(number.value / 100, None if number.places is None else number.places + 2, number.digits)


def _as_number(value: object) -> Number | None:
    return Number(value) if isinstance(value, Fraction) else None


def _worth_asking(text: str) -> bool:
    r"""Words, prose and what no grammar of expressions knows are not worth milliseconds."""
    return (
        len(text) <= 600
        and "\\text" not in text
        and (parse_number(text) is not None or any(c in text for c in "\\^_+-*/(") or len(text) <= 3)
    )
