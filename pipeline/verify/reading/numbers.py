r"""Exact numbers: what a fraction can hold is compared as a fraction, never as a float."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 2000
"""Longer numerals are no answers (and Python refuses to read them quickly)."""
LARGEST_EXPONENT = 2000
"""Of ten, in scientific notation."""

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<body>{_DECIMAL})(?:[eE](?P<e>[-+]?\d{{1,4}}))?"
    r"(?:\s*\\cdot\s*10\s*\^\s*(?:\{\s*(?P<p>[-+]?\d{1,4})\s*\}|(?P<q>[-+]?\d{1,4})))?"
)
_SLASH = re.compile(rf"(?P<sign>[-+]?)\s*\(?(?P<a>[-+]?{_DECIMAL})\)?\s*/\s*\(?(?P<b>{_DECIMAL})\)?")
_FRAC = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<whole>\d+)?\s*\\frac\s*\{{\s*(?P<a>[-+]?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<b>[-+]?\s*{_DECIMAL})\s*\}}"
)
_MIXED = re.compile(r"(?P<sign>[-+]?)\s*(?P<whole>\d+)\s+(?P<a>\d+)\s*/\s*(?P<b>\d+)")
_REPEATING = re.compile(
    r"(?P<sign>[-+]?)(?P<whole>\d*)\.(?P<fixed>\d*)\\(?:overline|bar|dot)\s*\{?(?P<again>\d+)\}?(?:\\dots)?"
)
_POWER_OF_TEN = re.compile(r"(?P<sign>[-+]?)10\s*\^\s*(?:\{\s*(?P<p>[-+]?\d{1,4})\s*\}|(?P<q>[-+]?\d{1,4}))")


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, and how it was written."""

    value: Fraction
    places: int | None = None
    """Digits after the point, where it was written as a decimal; None for integers and fractions."""
    digits: int = 0
    """Significant digits of that decimal."""


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip(".") or "0")


def parse_number(text: str) -> Number | None:
    """The number that `text` (cleaned) is; None where it is something else."""
    if len(text) > MOST_DIGITS or not (any(map(str.isdigit, text))):
        return None
    if match := _NUMBER.fullmatch(text):
        return _decimal(match)
    if "/" in text:
        if match := _MIXED.fullmatch(text):
            return _quotient(match["sign"], match["whole"], match["a"], match["b"])
        if match := _SLASH.fullmatch(text):
            return _quotient(match["sign"], None, match["a"], match["b"])
    if "\\frac" in text and (match := _FRAC.fullmatch(text)):
        return _quotient(match["sign"], match["whole"], match["a"].replace(" ", ""), match["b"].replace(" ", ""))
    if "." in text and "\\" in text and (match := _REPEATING.fullmatch(text)):
        return _repeating(match)
    if "^" in text and (match := _POWER_OF_TEN.fullmatch(text)):
        exponent = int(match["p"] or match["q"])
        if abs(exponent) <= LARGEST_EXPONENT:
            return Number((-1 if match["sign"] == "-" else 1) * Fraction(10) ** exponent)
    return None


def _decimal(match: re.Match[str]) -> Number | None:
    body = match["body"].replace(",", "").replace(" ", "")
    exponent = int(match["e"] or 0) + int(match["p"] or match["q"] or 0)
    if abs(exponent) > LARGEST_EXPONENT:
        return None
    value = _plain(body) * Fraction(10) ** exponent
    if match["sign"] == "-":
        value = -value
    if "." not in body:
        return Number(value)
    places = len(body) - body.index(".") - 1
    return Number(value, places - exponent, len(body.replace(".", "").lstrip("0"))) if places > 0 else Number(value)


def _quotient(sign: str, whole: str | None, a: str, b: str) -> Number | None:
    below = _plain(b)
    if below == 0:
        return None
    value = _plain(a) / below
    if whole is not None:
        if value < 0:
            return None
        value += int(whole)
    return Number(-value if sign == "-" else value)


def _repeating(match: re.Match[str]) -> Number:
    fixed, again = match["fixed"], match["again"]
    value = Fraction(int(match["whole"] or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return Number(-value if match["sign"] == "-" else value)


def has_finite_decimal(value: Fraction) -> bool:
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1


def rounds_to(exact: Fraction | float, decimal: Number) -> bool:
    """Whether `decimal` is what `exact` gives when it is rounded to as many places (half either way)."""
    if decimal.places is None:
        return False
    half = Fraction(1, 2) / Fraction(10) ** decimal.places
    if isinstance(exact, float):
        return (
            math.isfinite(exact) and abs(exact - float(decimal.value)) <= float(half) * (1 + 1e-9) + abs(exact) * 1e-13
        )
    return abs(exact - decimal.value) <= half


def numbers_equal(a: Number, b: Number, digits: int, digits_pair: int) -> bool:
    """Exactly equal; or one is a decimal of at least `digits` significant digits that the other, which no finite
    decimal equals, rounds to; or both are decimals and the longer rounds to the shorter of at least `digits_pair`."""
    if a.value == b.value:
        return True
    if a.places is not None and b.places is not None:
        short, long = (a, b) if a.places <= b.places else (b, a)
        return short.digits >= digits_pair and short.places != long.places and rounds_to(long.value, short)
    for decimal, other in ((a, b), (b, a)):
        if decimal.places is not None and other.places is None and decimal.digits >= digits:
            return not has_finite_decimal(other.value) and rounds_to(other.value, decimal)
    return False
