"""Who waits for whom: a discrete-event simulation of engines that sample and an actor that trains.

An engine gives each of its live sequences one token in a decode step, which takes a + b n seconds for n sequences. Before a
sequence is decoded, its start (prefilling) takes c seconds, in which the engine does nothing else. A response that ends frees
its slot. The actor takes a batch of finished responses, trains for a fixed time, and syncs the weights. Modes:

    step by step     a batch is sampled, then trained; so engines and actor take turns
    one step ahead   the next batch is sampled while the actor trains; a sync waits until it has ended
    partial          engines and actor take turns, but a batch is whole groups out of twice as many that are under way; they are
                     sampled in rounds of some tokens, and the others continue after the update (pipeline.rl.partial)

Left out: that prefilling takes longer the more tokens a sequence has, the growth of a decode step with length, transfers.
Rates are constants. Where engines and actor share processors, both are slower while the other works, so the rates for one step
ahead must come from a run that works so.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["step by step", "one step ahead", "partial"]
MODES: tuple[Mode, ...] = ("step by step", "one step ahead", "partial")
STEPS = 200
BATCHES_UNDER_WAY = 2
"""As in `pipeline.rl.partial`, which a plan cannot import: it needs torch."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is simulated. Times are seconds."""

    lengths: Sequence[Sequence[int]]
    """Response lengths, at least 1, by problem: a group draws a problem, and each of its responses one of that problem's
    lengths."""
    responses: int
    """Responses of a batch."""
    engines: int
    slots: int
    """Sequences that an engine decodes at once."""
    group: int = 1
    """Responses of a group."""
    round_tokens: int = 1
    """Most tokens of a response in a round; for partial."""
    decode_base: float
    """a of a decode step's a + b n."""
    decode_each: float
    """b."""
    start_each: float = 0.0
    """c."""
    actor: float
    """From a batch to new weights."""
    sync: float = 0.0

    def draw_group(self, draw: random.Random) -> list[int]:
        """The lengths of one group's responses."""
        return draw.choices(draw.choice(self.lengths), k=self.group)

    def draw_batch(self, draw: random.Random) -> list[int]:
        """The lengths of a batch's responses."""
        return [length for _ in range(self.responses // self.group) for length in self.draw_group(draw)]


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
        self.starting = 0.0
        """Seconds until the sequences that began can be decoded."""

    @property
    def step_seconds(self) -> float:
        return self.work.decode_base + self.work.decode_each * len(self.ends)

    def begin(self, length: int) -> None:
        heapq.heappush(self.ends, self.made + length)
        self.starting += self.work.start_each

    def until_next_end(self) -> float:
        """Seconds until a sequence ends; infinite if none is live."""
        if not self.ends:
            return math.inf
        return self.starting + max(0.0, self.ends[0] - self.made) * self.step_seconds

    def run(self, seconds: float) -> None:
        """Decodes for that long, at most until the next end."""
        if not self.ends:
            return
        self.busy += seconds
        starting = min(self.starting, seconds)
        self.starting -= starting
        self.made += (seconds - starting) / self.step_seconds
        while self.ends and self.ends[0] <= self.made + 1e-6:  # rounding of a time that was made from a number of steps
            heapq.heappop(self.ends)


def simulate(work: Work, mode: Mode, steps: int = STEPS) -> Waiting:
    """Simulates `steps` steps from a standing start; the lengths are drawn from the same random stream in each mode."""
    engines, draw = [Engine(work) for _ in range(work.engines)], random.Random(0)
    run = {"step by step": _step_by_step, "one step ahead": _one_step_ahead, "partial": _partial}[mode]
    seconds = run(work, engines, draw, steps)
    busy = sum(engine.busy for engine in engines) / work.engines
    return Waiting(seconds / steps, 1 - busy / seconds, 1 - steps * (work.actor + work.sync) / seconds)


def decode(engines: list[Engine], slots: int, lengths: Sequence[int]) -> float:
    """Decodes sequences of these lengths on engines that have no others. Returns the seconds until all have ended."""
    waiting, seconds = deque(lengths), 0.0
    while True:
        _admit(engines, slots, waiting)
        passed = min(engine.until_next_end() for engine in engines)
        if math.isinf(passed):
            return seconds
        seconds += passed
        for engine in engines:
            engine.run(passed)


def _admit(engines: list[Engine], slots: int, waiting: deque[int]) -> None:
    """Fills free slots, of the engine with the fewest sequences first."""
    while waiting:
        free = min(engines, key=lambda engine: len(engine.ends))
        if len(free.ends) == slots:
            return
        free.begin(waiting.popleft())


def _step_by_step(work: Work, engines: list[Engine], draw: random.Random, steps: int) -> float:
    batches = (work.draw_batch(draw) for _ in range(steps))
    return sum(decode(engines, work.slots, batch) + work.actor + work.sync for batch in batches)


def _one_step_ahead(work: Work, engines: list[Engine], draw: random.Random, steps: int) -> float:
    # A step lasts until the batch is trained and the next one is sampled, which begin at the same time. The first batch has
    # nothing beside it; the last step samples a batch that no simulated step trains.
    seconds = decode(engines, work.slots, work.draw_batch(draw))
    for _ in range(steps):
        sampling = decode(engines, work.slots, work.draw_batch(draw))
        seconds += max(sampling, work.actor) + work.sync
    return seconds


def _partial(work: Work, engines: list[Engine], draw: random.Random, steps: int) -> float:
    seconds, batch = 0.0, max(1, work.responses // work.group)
    under_way: list[list[int]] = []
    """Tokens that each response still gets, by group."""
    for _ in range(steps):
        while len(under_way) < BATCHES_UNDER_WAY * batch:
            under_way.append(work.draw_group(draw))
        while sum(not any(group) for group in under_way) < batch:
            seconds += decode(
                engines, work.slots, [min(left, work.round_tokens) for group in under_way for left in group if left]
            )
            under_way = [[max(0, left - work.round_tokens) for left in group] for group in under_way]
        trained = [i for i, group in enumerate(under_way) if not any(group)][:batch]
        under_way = [group for i, group in enumerate(under_way) if i not in trained]
        seconds += work.actor + work.sync
    return seconds
