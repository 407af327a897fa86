"""Where each rank is: a small file a rank, which the launcher's watchdog reads (`pipeline.run.watchdog`).

A thread rewrites the file at intervals, so a process that was stopped is recognised by a file that no longer changes. The
file also says the phase and the step, how long ago something moved, and how long the phase may take without moving. Before
`start`, and outside a run, the other functions do nothing.
"""

import faulthandler
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET
from typing import Any

import psutil

LONG = ("generate", "evaluate", "sync", "save")
"""Phases that may take `PATIENCE` times the limit, as any phase of the first step, which compiles and warms up."""
PATIENCE = 3
JOIN, STEP, DONE = "join", "step", "done"
"""The phases of meeting the other ranks, of what is in no phase of its own, and of a stage that has returned."""
STACK_SIGNAL = signal.SIGUSR1
"""Makes a rank write the Python stacks of its threads into its stack file."""
RECORD_BYTES = 512


def heart_file(outcomes: Path, rank: int) -> Path:
    return outcomes / f"rank{rank}.heart"


def stack_file(logs: Path, rank: int) -> Path:
    return logs / f"rank{rank}.stack"


def beat_seconds(limit_s: float) -> float:
    """Seconds between two beats: many within the limit, and few for the file system."""
    return min(10.0, limit_s / 20)


class Heart:
    """Writes the record of one rank.

    The file has one size and is overwritten in place by one write: that needs no room on a full disk, and a reader sees
    one record.
    """

    def __init__(self, file: Path, rank: int, limit_s: float) -> None:
        self.limit_s = limit_s
        self.phase: str | None = None
        self.first_step: int | None = None
        self.moved = time.monotonic()
        self._fixed = {"rank": rank, "host": socket.gethostname(), "addresses": own_addresses(), "pid": os.getpid()}
        self._step: int | None = None
        self._moves = self._beats = 0
        self._lock = threading.Lock()
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._ended = threading.Event()
        self._write()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def enter(self, phase: str | None) -> None:
        self.phase, self.moved = phase, time.monotonic()
        self._moves += 1
        self._write()

    def step(self, number: int) -> None:
        self.first_step = number if self.first_step is None else self.first_step
        self._step = number
        self.enter(STEP)

    def end(self) -> None:
        self._ended.set()
        self.enter(DONE)

    def allowed_s(self) -> float | None:
        """Seconds that the present phase may last without moving; None: any time, before the first step of a stage that
        has none, or that reads its data."""
        if self.phase in (None, DONE):
            return None
        first = self.phase != JOIN and self._step == self.first_step
        return self.limit_s * (PATIENCE if first or self.phase in LONG else 1)

    def _beat(self) -> None:
        while not self._ended.wait(beat_seconds(self.limit_s)):
            self._write()

    def _write(self) -> None:
        with self._lock, suppress(OSError):  # a run must not end because its watchdog cannot be told
            self._beats += 1
            record = self._fixed | {
                "phase": self.phase, "step": self._step, "moves": self._moves, "beat": self._beats,
                "quiet_s": round(time.monotonic() - self.moved, 2), "allowed_s": self.allowed_s(),
            }  # fmt: skip
            os.pwrite(self._handle, json.dumps(record).encode().ljust(RECORD_BYTES), 0)


def own_addresses() -> list[str]:
    """IPv4 addresses by which other machines may know this one: as many as a record holds."""
    found = [
        entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == AF_INET
    ]
    return [address for address in found if not address.startswith("127.")][:6]


_heart: Heart | None = None


def start(outcomes: Path, logs: Path, rank: int, limit_s: float) -> None:
    """Begins to report this rank, and to answer `STACK_SIGNAL`. Nothing happens where the file cannot be made."""
    global _heart
    with suppress(OSError):
        faulthandler.register(STACK_SIGNAL, file=open(stack_file(logs, rank), "w"), all_threads=True)  # noqa: SIM115
        _heart = Heart(heart_file(outcomes, rank), rank, limit_s)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """The rank is in this phase; afterwards it is again in the one before. For the main thread."""
    heart = _heart
    if heart is None:
        yield
        return
    before = heart.phase
    heart.enter(name)
    try:
        yield
    finally:
        heart.enter(before)


def step(number: int) -> None:
    """The rank begins step `number`."""
    if _heart is not None:
        _heart.step(number)


def moved() -> None:
    """Something was done within the phase. Costs next to nothing."""
    if _heart is not None:
        _heart.moved = time.monotonic()


def end() -> None:
    """The stage has returned; nothing is expected of this rank any more."""
    if _heart is not None:
        _heart.end()


def read(file: Path) -> dict[str, Any] | None:
    """The record of a rank; None if there is none, or while it is being written."""
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
