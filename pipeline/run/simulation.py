"""Who waits for whom: a discrete-event simulation of engines that sample and an actor that trains.

An engine gives each of its live sequences one token in a decode step, which takes a + b n seconds for n sequences. A response
that ends frees its slot. The actor takes a batch of finished responses, trains for a fixed time, and syncs the weights, for
which all engines stop. The modes differ in how many responses may have been started, and in what a sync waits for:

    step by step     those of one batch more than were trained; so engines and actor take turns
    one step ahead   those of one batch more than the actor has begun; a sync waits until all of them have ended
    partial          those of two batches more than were trained; a sync interrupts those under way, which then continue

Left out: prompts, the growth of a step's time with the length of the sequences, and transfers.
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["step by step", "one step ahead", "partial"]
MODES: tuple[Mode, ...] = ("step by step", "one step ahead", "partial")
STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is simulated. Times are seconds."""

    lengths: Sequence[int]
    """Response lengths, at least 1; each response draws one."""
    responses: int
    """Responses of a batch."""
    engines: int
    slots: int
    """Sequences that an engine decodes at once."""
    decode_base: float
    """a of a decode step's a + b n."""
    decode_each: float
    """b."""
    actor: float
    """From a batch to new weights."""
    sync: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """The result of one mode."""

    seconds: float
    """Of one step."""
    engines_idle: float
    """Share of the engines' time in which they decode nothing."""
    actor_idle: float
    """Share of the actor's time in which it neither trains nor syncs."""


class Engine:
    """One engine's live sequences."""

    def __init__(self, work: Work):
        self.work = work
        self.made = 0.0
        """Decode steps so far; between two events it need not be a whole number."""
        self.ends: list[float] = []
        """Heap: the number of decode steps after which each live sequence ends."""
        self.busy = 0.0

    @property
    def step_seconds(self) -> float:
        return self.work.decode_base + self.work.decode_each * len(self.ends)

    def begin(self, length: int) -> None:
        heapq.heappush(self.ends, self.made + length)

    def until_next_end(self) -> float:
        """Seconds until a sequence ends; infinite if none is live."""
        return max(0.0, self.ends[0] - self.made) * self.step_seconds if self.ends else math.inf

    def run(self, seconds: float) -> int:
        """Decodes for that long, at most until the next end. Returns how many sequences ended."""
        if not self.ends:
            return 0
        self.busy += seconds
        self.made += seconds / self.step_seconds
        live = len(self.ends)
        while self.ends and self.ends[0] <= self.made + 1e-6:  # rounding of a time that was made from a number of steps
            heapq.heappop(self.ends)
        return live - len(self.ends)


def simulate(work: Work, mode: Mode, steps: int = STEPS) -> Waiting:
    """Simulates `steps` steps from a standing start; the lengths that are drawn are the same for each mode."""
    draw = random.Random(0)
    engines = [Engine(work) for _ in range(work.engines)]
    seconds = 0.0
    started = begun = trained = ready = 0
    training: float | None = None
    """Seconds until the actor has trained the batch that it has; None: it has none."""
    while trained < steps:
        batches = {"step by step": trained + 1, "one step ahead": begun + 1, "partial": trained + 2}[mode]
        while started < batches * work.responses:
            free = min(engines, key=lambda engine: len(engine.ends))
            if len(free.ends) == work.slots:
                break
            free.begin(draw.choice(work.lengths))
            started += 1
        if training is None and ready >= work.responses:
            ready -= work.responses
            begun += 1
            training = work.actor
        elif training == 0 and not (mode == "one step ahead" and any(engine.ends for engine in engines)):
            seconds += work.sync
            trained += 1
            training = None
        else:
            passed = min(training or math.inf, *(engine.until_next_end() for engine in engines))
            seconds += passed
            ready += sum(engine.run(passed) for engine in engines)
            if training:
                training -= passed  # exactly 0 once the actor is done
    busy = sum(engine.busy for engine in engines) / work.engines
    return Waiting(seconds / steps, 1 - busy / seconds, 1 - steps * (work.actor + work.sync) / seconds)
