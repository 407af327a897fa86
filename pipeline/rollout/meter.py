"""Counts rows and tokens of a `generate` and reports them, not too often."""

import time
from collections.abc import Callable

from pipeline.rollout.interface import GenerationProgress

SECONDS = 0.2
"""Shortest time between two reports."""


class Meter:
    """Of `rows` responses; `report` hears of them, if there is one."""

    def __init__(self, rows: int, report: Callable[[GenerationProgress], None] | None):
        self.total, self.sink = rows, report
        self.rows = self.tokens = 0
        self.start = self.last = time.perf_counter()

    def row(self) -> None:
        """One more response has ended."""
        self.rows += 1

    def add(self, tokens: int) -> None:
        """There are so many tokens more."""
        self.reach(self.tokens + tokens)

    def reach(self, tokens: int) -> None:
        """There are so many tokens by now."""
        self.tokens = tokens
        if self.sink is not None and time.perf_counter() - self.last > SECONDS:
            self.report()

    def report(self) -> None:
        self.last = time.perf_counter()
        if self.sink is not None:
            self.sink(GenerationProgress(self.rows, self.total, self.tokens, self.last - self.start))
