"""Grades chunks of (response, gold, symbolically) rows in a worker process. The nursery forks it; the pool may kill it.

Cheap layers answer in microseconds, so their results go back together. Before the first call of the symbolic layer
for a pair the worker sends what it has and says which pair it is about to try: the pool starts that pair's clock
there, and knows whom to blame when it has to kill.
"""

import os
import resource
import socket
import time
from typing import Any

from pipeline.verify.comparing import symbolic
from pipeline.verify.grading import Ask, grade_pair
from pipeline.verify.types import Conventions, Form, Grade
from pipeline.verify.workers import jail, wire

SLOW_PAIRS_PER_LIFE = 2000
"""A worker is replaced after this many symbolic pairs: sympy's caches only ever grow."""


def _limit_memory(gib: float) -> None:
    size = int(gib * 2**30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Chunk:
    """One chunk in work: results not yet sent, and whether the pair in hand has been announced as slow."""

    def __init__(self, sock: socket.socket, conventions: Conventions, form: Form) -> None:
        self.sock = sock
        self.conventions = conventions
        self.form: Form = form
        self.done: list[list[Any]] = []
        self.current = -1
        self.announced = -1

    def ask(self, question: str, left: str, right: str) -> bool | None:
        if self.announced != self.current:
            self.announced = self.current
            self.flush(slow=self.current)
        return symbolic.ask(question, left, right)

    def flush(self, **more: Any) -> None:
        wire.send(self.sock, {"done": self.done, **more})
        self.done = []

    def grade(self, index: int, response: str, gold: str, problem: str, ask: Ask) -> bool:
        """Grades one pair; returns whether this process should be replaced afterwards."""
        self.current = index
        started = time.perf_counter()
        spoiled = False
        try:
            grade = grade_pair(response, gold, self.conventions, ask, problem, self.form)
        except MemoryError:
            grade, spoiled = Grade(False, None, "out of memory", "pool"), True
        except RecursionError:
            grade = Grade(False, None, "nested too deeply", "pool")
        except Exception as error:  # a defect of ours must cost one answer, not the batch; metrics count it
            grade = Grade(False, None, f"error: {type(error).__name__}", "pool")
        seconds = time.perf_counter() - started
        self.done.append([index, grade.correct, grade.extracted, grade.reason, grade.layer, seconds, grade.unread])
        return spoiled


def _undecided(question: str, left: str, right: str) -> bool | None:
    """Replaces the symbolic layer for a pair that was too slow for it: the verdict of the cheap layers is kept."""
    return None


def serve(sock: socket.socket, hello: dict[str, Any]) -> None:
    """Grades chunks from `sock` until it closes."""
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    _limit_memory(hello["memory_gib"])
    jail.close()
    conventions = Conventions(**hello["conventions"])
    slow_pairs = 0
    retire = False
    while not retire:
        pairs = wire.receive(sock)
        chunk = _Chunk(sock, conventions, hello["form"])
        for index, (response, gold, problem, symbolically) in enumerate(pairs):
            retire |= chunk.grade(index, response, gold, problem, chunk.ask if symbolically else _undecided)
            slow_pairs += chunk.announced == index
        retire |= slow_pairs >= SLOW_PAIRS_PER_LIFE
        chunk.flush(end=True, retire=retire)
