"""A ladder of checks. Each rung says what was asked and what was got; one that fails does not end the ladder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.common.tables import aligned, markdown

HEADINGS = ("rung", "asked", "got", "result", "seconds")


class NotHere(Exception):  # noqa: N818  (no error: the rung is skipped)
    """A rung cannot be tried here; the message says why."""


@dataclass(frozen=True)
class Found:
    """What a rung found."""

    asked: str
    got: str
    ok: bool


@dataclass(frozen=True)
class Row:
    """A rung of the table."""

    name: str
    asked: str
    got: str
    ok: bool | None
    """None: not tried."""
    seconds: float

    def cells(self) -> list[str]:
        result = {True: "ok", False: "FAILED", None: "skipped"}[self.ok]
        return [self.name, self.asked, self.got, result, f"{self.seconds:.1f}"]


Rung = tuple[str, Callable[[], Found]]


def climb(rungs: Sequence[Rung], say: Callable[[str], None], limit_s: float) -> tuple[list[Row], bool]:
    """Try every rung in order; returns the rows, and whether Ctrl-C ended it. After `limit_s` seconds no rung is begun."""
    rows: list[Row] = []
    started = time.monotonic()
    for number, (name, work) in enumerate(rungs, 1):
        if time.monotonic() - started > limit_s:
            rows.append(Row(name, "", f"not begun: {limit_s:.0f} s were over", None, 0.0))
            continue
        say(f"[{number}/{len(rungs)}] {name}")
        try:
            row = _tried(name, work)
        except KeyboardInterrupt:
            rows += [Row(left, "", "not tried: interrupted", None, 0.0) for left, _ in rungs[number - 1 :]]
            return rows, True
        say(f"    {row.cells()[3]}: {row.got} ({row.seconds:.1f} s)")
        rows.append(row)
    return rows, False


def _tried(name: str, work: Callable[[], Found]) -> Row:
    start = time.monotonic()
    try:
        found = work()
    except NotHere as reason:
        return Row(name, "", str(reason), None, time.monotonic() - start)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Row(name, "", f"{type(error).__name__}: {first}"[:300], False, time.monotonic() - start)
    return Row(name, found.asked, found.got, found.ok, time.monotonic() - start)


def screen(rows: Sequence[Row]) -> list[str]:
    return aligned(HEADINGS, [row.cells() for row in rows])


def page(rows: Sequence[Row]) -> list[str]:
    """The table for the documentation."""
    return markdown(HEADINGS, [row.cells() for row in rows])


def record(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
