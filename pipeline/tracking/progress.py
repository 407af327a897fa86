"""Progress displays of long work: how much is done, how fast, and the time left.

On a terminal one bar that is redrawn in place; anywhere else (a pipe, a log file, SLURM) plain lines now and then,
without control characters.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.common import heartbeat

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Clock = Callable[[], float]

WINDOW = 32
"""Moments that the speed is measured over: long enough to smooth single slow steps, short enough to follow a trend."""
SPACING_S = 0.25
"""Least time between two of those moments, so that many tiny items are not measured by the last few."""
LINE_EVERY_S = 15.0
LINE_EVERY_SHARE = 0.1
"""Off a terminal a line is printed after this much time or this share of the work, whichever comes first."""


class Speed:
    """Items per second in the recent past, and the seconds left at that speed."""

    def __init__(
        self, total: float | None, done: float = 0, clock: Clock = time.monotonic, started: float | None = None
    ) -> None:
        self.total, self.done = total, done
        self._clock = clock
        self._moments = deque([(clock() if started is None else started, float(done))], maxlen=WINDOW)
        self._first = True

    def reach(self, done: float, measure: bool = True) -> None:
        """`done` items are finished in all. `measure`: use this moment to measure the speed."""
        now = self._clock()
        self.done = done
        if not measure:
            return
        if self._first and done > self._moments[0][1]:
            self._first = False
            self._moments.append((now, done))
        elif now - self._moments[-1][0] >= SPACING_S and done > self._moments[-1][1]:
            if len(self._moments) == 2:  # the first item also pays for warming up: leave it out as soon as possible
                self._moments.popleft()
            self._moments.append((now, done))

    @property
    def rate(self) -> float | None:
        """Items a second; None before there is enough to tell."""
        (start, before), (end, after) = self._moments[0], self._moments[-1]
        return (after - before) / (end - start) if end - start >= SPACING_S and after > before else None

    @property
    def seconds_left(self) -> float | None:
        """None while it cannot be known."""
        if self.total is None or not self.rate:
            return None
        return max(0.0, self.total - self.done) / self.rate


class Progress:
    """A progress display for `total` items.

        with Progress(len(rows), "grading", "rows") as progress:
            for row in rows:
                progress.advance(correct=0.61)

    Args:
        total: items in all; None if not known.
        label: the work, in a word or two.
        unit: what the items are, plural.
        done: items finished earlier (resume).
        started: the clock's moment at which the work began; now, if not given.
        enabled: False on all ranks but one; then nothing is shown.
        stream, clock: for tests; standard output and `time.monotonic` otherwise.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str = "steps",
        *,
        done: int = 0,
        started: float | None = None,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.label, self.unit, self.enabled = label, unit, enabled
        self._clock = clock
        self._started = clock() if started is None else started
        self.speed = Speed(total, done, clock, self._started)
        self._start_done = done
        self._stream = stream
        self._printed = (self._started, float(done))
        self._figures = ""
        self._closed = False
        self._bar: RichProgress | None = None
        self._task: Any = None
        if enabled and is_terminal(self._out):
            self._open_bar()

    def advance(self, items: int = 1, **figures: float | str) -> None:
        """`items` more are finished; `figures` are shown beside (`loss=0.31`)."""
        self.reach(int(self.speed.done) + items, "  ".join(f"{name} {shown(v)}" for name, v in figures.items()))

    def reach(self, done: int, figures: str = "", line: bool = False, measure: bool = True) -> None:
        """`done` items are finished in all. `line`: print a plain line now, off a terminal. `measure`: False where items
        come in bursts and this is the middle of one, which says nothing about the speed."""
        heartbeat.moved()
        self.speed.reach(done, measure)
        self._figures = figures or self._figures
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=self._figures, left=self._left())
            return
        now, total = self._clock(), self.speed.total
        moment, before = self._printed
        share = (done - before) / total if total else 0.0
        if line or now - moment >= LINE_EVERY_S or share >= LINE_EVERY_SHARE or (total is not None and done == total):
            self._print_line()
            self._printed = (now, float(done))

    def close(self) -> None:
        """Ends the display and prints how long the work took. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        items = self.speed.done - self._start_done
        if self.enabled and items:
            took = duration(self._clock() - self._started)
            self._write(f"{self.label}: {items:,.0f} {self.unit} in {took}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _out(self) -> TextIO:
        return self._stream or sys.stdout  # looked up late: rich and pytest put their own in its place

    def _left(self) -> str:
        seconds = self.speed.seconds_left
        return "" if seconds is None else f"{duration(seconds)} left"

    def _print_line(self) -> None:
        done, total = int(self.speed.done), self.speed.total
        count = f"{done:,}" if total is None else f"{done:>{len(f'{total:,}')},}/{total:,}"
        rate = self.speed.rate
        speed = "" if rate is None or self._figures else f"{shown(rate)} {self.unit}/s"
        self._write("  ".join(part for part in (f"{self.label} {count}", self._figures, speed, self._left()) if part))

    def _write(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", style="cyan", markup=False),
            TextColumn("{task.fields[left]}", style="dim", markup=False),
            console=Console(file=self._stream) if self._stream else None,
            refresh_per_second=4,
            redirect_stderr=is_terminal(sys.stderr),  # a log stays a log
        )
        self._task = self._bar.add_task(
            self.label, total=self.speed.total, completed=int(self.speed.done), figures="", left=""
        )
        self._bar.start()


def is_terminal(stream: TextIO) -> bool:
    """True if a bar can be redrawn there."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a stand-in without the method, or a closed stream
        return False


def duration(seconds: float) -> str:
    """`9.3 s`, `4 min 10 s`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def shown(value: float | str) -> str:
    """A figure in few characters: `0.413`, `9,600`, `1.2e-05`."""
    if isinstance(value, str):
        return value
    if value != value:
        return "nan"
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}"
    if size >= 99.95 or value == int(value):
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.001 else f"{value:.1e}"
