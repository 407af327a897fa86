"""The axes of charts: range, ticks, and the format of numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.tracking.progress import shown

Form = Literal["number", "share", "seconds"]
"""How values are written: as they are, as per cent, or as seconds."""
FLAT = 1e-5
"""Curves that vary by less than this share of their size are drawn flat, because their ticks would read alike."""


@dataclass(frozen=True)
class Axis:
    """A range and the ticks on it; `place` maps a value to 0..1 along it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(max(value, self.low)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def fit(values: Iterable[float], log: bool = False, zero: bool = False, ticks: int = 5) -> Axis:
    """An axis over the values with round ticks. `zero`: it starts at 0 if no value lies below. `log` holds only where
    all values are positive and span more than a factor of 8."""
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if log and low > 0 and high / low > 8:
        return _log(low, high)
    if zero and low >= 0:
        low = 0.0
    if high - low <= FLAT * max(abs(low), abs(high)):
        # One value in effect: leave room around it, but only above it where the axis starts at 0.
        low, high = (
            (0.0, high or 1.0) if zero and low >= 0 else (low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0))
        )
    step = _round_step((high - low) / ticks)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    count = round((high - low) / step)
    return Axis(low, high, tuple(low + i * step for i in range(count + 1)))


def steps_axis(low: float, high: float) -> Axis:
    """The axis of training steps: exactly their range, round whole ticks within."""
    if low == high:
        return Axis(low - 0.5, high + 0.5, (low,))
    step = max(1.0, _round_step((high - low) / 6))
    first = math.ceil(low / step)
    return Axis(low, high, tuple(i * step for i in range(first, math.floor(high / step + 1e-9) + 1)))


def written(value: float, form: Form = "number") -> str:
    """A value in few characters."""
    if form == "share":
        size = abs(100 * value)
        return f"{100 * value:.0f}%" if size >= 10 or not size else f"{100 * value:.{1 if size >= 1 else 2}f}%"
    return f"{shown(value)} s" if form == "seconds" else shown(value)


def tick(value: float, axis: Axis, form: Form = "number") -> str:
    """A tick's label, with as many decimals as tell it from its neighbours."""
    factor = 100.0 if form == "share" else 1.0
    unit = {"share": "%", "seconds": " s", "number": ""}[form]
    if axis.log or len(axis.ticks) < 2:
        return f"{value * factor:.3g}{unit}"
    step = (axis.ticks[1] - axis.ticks[0]) * factor
    if abs(step) < 1e-4 or abs(value * factor) >= 1e6:
        return f"{value * factor:.3g}{unit}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value * factor + 0.0:,.{decimals}f}{unit}"


def _round_step(raw: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten at or above."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _log(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 6))
    return Axis(10.0**first, 10.0**last, tuple(10.0**i for i in range(first, last + 1, stride)), log=True)
