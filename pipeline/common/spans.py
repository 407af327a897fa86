"""Whole numbers as a short list for people."""

from collections.abc import Iterable


def spans(numbers: Iterable[int]) -> str:
    """`4, 6-8`; `none` if there are none."""
    held = set(numbers)
    starts = sorted(number for number in held if number - 1 not in held)
    ends = sorted(number for number in held if number + 1 not in held)
    parts = [str(low) if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True)]
    return ", ".join(parts) or "none"
