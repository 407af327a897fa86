r"""Exact numbers: what a fraction can hold is compared as a fraction, never as a float."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MOST_DIGITS = 2000
"""Longer numerals are no answers (and Python refuses to read them quickly)."""
LARGEST_EXPONENT = 2000
"""Of ten, in scientific notation."""
PRINTED_DIGITS = 16
"""A program prints a double with up to 17 significant digits; with this many, the last ones are its error."""
PRINTED_ERROR = Fraction(8, 2**53)
"""Relative: the rounding of a few operations in double precision."""

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
    r"(?P<sign>[-+]?)(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar|dot)\s*\{?(?P<again>\d+)\}?|\((?P<period>\d+)\))\s*(?:\\dots)?"
)
_UNENDING = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d*)\.(?P<places>\d+)\s*\\dots")
_POINTS = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d{1,3}(?:\.\d{3}){2,})(?:,(?P<places>\d+))?")
"""`1.234.567,89`. `1.234` and `1.234,56` have another reading: structure.py tries both."""
_DIGIT = re.compile(r"\d")
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


@lru_cache(maxsize=128)
def parse_number(text: str) -> Number | None:
    """The number that `text` (cleaned) is; None where it is something else."""
    if len(text) > MOST_DIGITS or _DIGIT.search(text) is None:
        return None
    if text.isdecimal() and text.isascii():
        return Number(Fraction(int(text)))
    if match := _NUMBER.fullmatch(text):
        return _decimal(match)
    if "/" in text:
        if match := _MIXED.fullmatch(text):
            return _quotient(match["sign"], match["whole"], match["a"], match["b"])
        if match := _SLASH.fullmatch(text):
            return _quotient(match["sign"], None, match["a"], match["b"])
    if "\\frac" in text and (match := _FRAC.fullmatch(text)):
        return _quotient(match["sign"], match["whole"], match["a"].replace(" ", ""), match["b"].replace(" ", ""))
    if "." in text:
        if ("\\" in text or "(" in text) and (match := _REPEATING.fullmatch(text)):
            return _repeating(match["sign"], match["whole"], match["fixed"], match["again"] or match["period"])
        if "\\dots" in text and (match := _UNENDING.fullmatch(text)):
            return _unending(match)
        if text.count(".") > 1 and (match := _POINTS.fullmatch(text)):
            return parse_number(f"{match['sign']}{match['whole'].replace('.', '')}.{match['places'] or ''}")
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
    whole, _, decimals = body.partition(".")
    digits = int(whole + decimals)
    shift = exponent - len(decimals)
    if match["sign"] == "-":
        digits = -digits
    value = Fraction(digits * 10**shift) if shift >= 0 else Fraction(digits, 10**-shift)
    if not decimals:
        return Number(value)
    return Number(value, -shift, len((whole + decimals).lstrip("0")))


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


def _repeating(sign: str, whole: str, fixed: str, again: str) -> Number:
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return Number(-value if sign == "-" else value)


def _unending(match: re.Match[str]) -> Number:
    r"""`0.1666\dots` repeats its 6; `3.1415\dots` is some number between 3.1415 and 3.1416, and rounds to its middle."""
    places = match["places"]
    length = _period(places)
    if length:
        start = len(places) - length
        while start >= 1 and places[start - 1] == places[start - 1 + length]:
            start -= 1
        return _repeating(match["sign"], match["whole"], places[:start], places[start : start + length])
    value = Fraction(int((match["whole"] or "0") + places)) + Fraction(1, 2)
    value /= 10 ** len(places)
    digits = len((match["whole"] + places).lstrip("0"))
    return Number(-value if match["sign"] == "-" else value, len(places), digits)


def _period(places: str) -> int:
    """Length of the period that these digits show: three times, or twice if nothing comes before it. 0 without one."""
    for length in range(1, len(places) // 2 + 1):
        if 3 * length <= len(places) and places[-3 * length :] == places[-length:] * 3:
            return length
        if length > 1 and places == (places[:length] * len(places))[: len(places)]:
            return length
    return 0


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
    if not isinstance(exact, float):
        return abs(exact - decimal.value) <= half
    if not math.isfinite(exact):
        return False
    if decimal.digits >= PRINTED_DIGITS:
        return is_printed(Fraction(exact), decimal)
    return abs(Fraction(exact) - decimal.value) <= half * (1 + Fraction(1, 10**9)) + abs(Fraction(exact)) / 10**13


def is_printed(exact: Fraction, decimal: Number) -> bool:
    """Whether `decimal` is what a program prints for `exact`: all digits of a double, the last of them its error."""
    if decimal.places is None or decimal.digits < PRINTED_DIGITS:
        return False
    return abs(exact - decimal.value) <= PRINTED_ERROR * abs(exact)


def numbers_equal(a: Number, b: Number, digits: int, digits_pair: int) -> bool:
    """Exactly equal; or one is a decimal of at least `digits` significant digits that the other, which no finite
    decimal equals, rounds to; or both are decimals and the longer rounds to the shorter of at least `digits_pair`; or one
    is the other as a program prints it."""
    if a.value == b.value:
        return True
    if max(a.digits, b.digits) >= PRINTED_DIGITS > min(a.digits, b.digits) and (
        is_printed(a.value, b) or is_printed(b.value, a)
    ):
        return True
    if a.places is not None and b.places is not None:
        short, long = (a, b) if a.places <= b.places else (b, a)
        return short.digits >= digits_pair and short.places != long.places and rounds_to(long.value, short)
    for decimal, other in ((a, b), (b, a)):
        if decimal.places is not None and other.places is None and decimal.digits >= digits:
            return not has_finite_decimal(other.value) and rounds_to(other.value, decimal)
    return False
