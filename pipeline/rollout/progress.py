"""The progress display of offline generation and evaluation: samples done, tokens a second, time left."""

import time
from collections.abc import Sequence
from typing import Any

from pipeline.rollout.interface import GenerationProgress, Rollout
from pipeline.tracking.progress import Clock, Progress, Speed


class OfflineProgress:
    """Counts the samples of all copies of the model, one of which reports while a wave is generated. A context manager.

    Samples of an earlier start count as done, but not in speed and time left.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        label: str = "rollout",
        enabled: bool = True,
        clock: Clock = time.monotonic,
        stream: Any = None,
    ) -> None:
        """`total` samples in all, `done` of them earlier; `enabled` on one rank. `clock`, `stream`: for tests."""
        self.done, self._total = done, total
        self._clock, self._started = clock, clock()
        self._display = Progress(
            total, label, "samples", done=done, started=self._started, enabled=enabled, clock=clock, stream=stream
        )
        self._tokens = 0
        """Of finished waves."""
        self._wave = 0

    def begin(self, samples: int) -> None:
        """Starts a wave of this many samples."""
        self._wave = samples

    def show(self, now: GenerationProgress) -> None:
        """Shows the progress of the first copy, which represents all. A wave counts as done only when it is written."""
        if not now.rows_total:
            return
        copies = self._wave / now.rows_total
        samples = min(int(now.rows_done * copies), self._wave - 1)
        figure = self._figure(self._tokens + int(now.tokens * copies))
        # A wave's samples end in bursts, so whole waves tell the speed; within the first it is the mean so far.
        first = self._forget_guesses()
        self._display.reach(self.done + samples, figure, measure=first)

    def end(self, groups: Sequence[Sequence[Rollout]]) -> None:
        """Counts the wave as written."""
        self._forget_guesses()
        self._tokens += sum(len(rollout.token_ids) for group in groups for rollout in group)
        self.done += self._wave
        self._display.reach(self.done, self._figure(self._tokens))

    def _forget_guesses(self) -> bool:
        """In the first wave, restart the measurement; return whether this is the first."""
        if not self._tokens:
            self._display.speed = Speed(self._total, self.done, self._clock, self._started)
        return not self._tokens

    def _figure(self, tokens: int) -> str:
        """The mean since the start, grading and writing included."""
        return f"{tokens / max(self._clock() - self._started, 1e-9):,.0f} tokens/s"

    def __enter__(self) -> "OfflineProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._display.speed.done = self.done  # of a wave that was broken off, nothing counts
        self._display.close()

    def summary(self) -> str:
        """What has been generated since the start; empty if nothing."""
        return f"{self._tokens:,} tokens, {self._figure(self._tokens)}" if self._tokens else ""
