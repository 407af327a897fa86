"""Signs of life between a trainer and its vLLM servers.

A cut cable or a machine that loses power closes no connection, and both ends would wait for each other. So each server rank
writes a number into the trainer's store at intervals. The trainer looks whether it changes; the server looks whether the
store takes it. Pauses of the own process count for nobody.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch.distributed as dist

from pipeline.common.processes import stop_tree

LONGEST_SECONDS = 5.0
"""Most seconds between two signs."""


class _Clock:
    """Seconds without a sign, as far as this process was awake."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.last = time.monotonic()
        self.silent_s = 0.0

    def look(self, sign: bool) -> float:
        now = time.monotonic()
        self.silent_s = 0.0 if sign else self.silent_s + min(now - self.last, 3 * self.interval)
        self.last = now
        return self.silent_s


class Watch:
    """On the trainer: calls `lost` once, with the server ranks that gave no sign for `limit_s` seconds. A thread."""

    def __init__(self, store: Any, keys: dict[int, str], limit_s: float, lost: Callable[[list[int]], None]) -> None:
        """`keys`: where each rank writes. `store` is not used by anybody else."""
        self.store, self.keys, self.limit_s, self.lost = store, keys, limit_s, lost
        self.interval = min(LONGEST_SECONDS, limit_s / 10)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        clocks = {rank: _Clock(self.interval) for rank in self.keys}
        values = dict.fromkeys(self.keys, b"")
        while not self._ended.wait(self.interval):
            silent = []
            for rank, key in self.keys.items():
                value = self.store.get(key) if self.store.check([key]) else b""
                if clocks[rank].look(value != values[rank]) > self.limit_s:
                    silent.append(rank)
                values[rank] = value
            if silent:
                self.lost(silent)
                return


class Pulse:
    """On a server rank: gives the signs, and ends the process when the store took none for `limit_s` seconds. Two threads,
    because a write that a cut link swallows does not return."""

    def __init__(self, store: Any, key: str, limit_s: float, address: str) -> None:
        self.store, self.key, self.limit_s, self.address = store, key, limit_s, address
        self.interval = min(LONGEST_SECONDS, limit_s / 20)
        self.count = 0
        self._ended = threading.Event()
        for target in (self._give, self._look):
            threading.Thread(target=target, name="pulse", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _give(self) -> None:
        while not self._ended.is_set():
            try:
                self.count = self.store.add(self.key, 1)  # waits for the answer, which `set` does not
            except dist.DistError:
                return  # the trainer is gone: the link's own connections usually say so first
            self._ended.wait(self.interval)

    def _look(self) -> None:
        clock, before = _Clock(self.interval), -1
        while not self._ended.wait(self.interval):
            if clock.look(self.count != before) > self.limit_s:
                self._give_up()
            before = self.count

    def _give_up(self) -> NoReturn:
        print(
            f"The trainer at {self.address} has not answered for {self.limit_s:.0f} s: its machine or the link to it is lost."
            " This vLLM server ends; started again, it waits for the trainer.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        stop_tree(os.getpid(), grace_s=0.5, include_root=False)
        os._exit(1)
