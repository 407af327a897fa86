"""Count rows and tokens of a `generate`, and report them at intervals."""

import time
from collections.abc import Callable

from pipeline.common import heartbeat
from pipeline.rollout.interface import GenerationProgress

SECONDS = 0.2
"""Shortest time between two reports."""


class Meter:
    """Counts `rows` responses; calls `report`, if given, with the progress."""

    def __init__(self, rows: int, report: Callable[[GenerationProgress], None] | None):
        self.total, self.sink = rows, report
        self.rows = self.tokens = 0
        self.start = self.last = time.perf_counter()

    def row(self) -> None:
        """Counts one finished response."""
        self.rows += 1

    def add(self, tokens: int) -> None:
        """Adds `tokens` to the count."""
        self.reach(self.tokens + tokens)

    def reach(self, tokens: int) -> None:
        """Sets the count to `tokens`."""
        self.tokens = tokens
        heartbeat.moved()
        if self.sink is not None and time.perf_counter() - self.last > SECONDS:
            self.report()

    def report(self) -> None:
        self.last = time.perf_counter()
        if self.sink is not None:
            self.sink(GenerationProgress(self.rows, self.total, self.tokens, self.last - self.start))
