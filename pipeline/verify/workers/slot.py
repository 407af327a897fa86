"""Runs the trainer's side of one worker, and of the nursery that starts it."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.verify.types import Grade
from pipeline.verify.workers import wire

START_SECONDS = 120.0
"""Longest wait for the nursery to import sympy. It takes minutes only on an overloaded machine."""
PATIENCE = 5
"""A worker that gets no processor time is waited for this many times the limit, and then replaced."""
DEATHS_BEFORE_BLAME = 2
"""A worker can die for reasons outside (the kernel's memory killer, an operator): a pair is tried again once."""

Pair = tuple[str, str, str]
"""A response, its gold and the problem (empty where it is not known)."""


class NurseryHandle:
    """Starts the nursery, starts it again when it has died, and passes spawn and kill requests. Thread-safe."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self._hello = hello
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._replies: Any = None
        self._ready = False
        self._closed = False
        with self._lock:
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])
        # -c rather than multiprocessing: the trainer's __main__ is never imported again and needs no guard.
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]);"
            " from pipeline.verify.workers.nursery import main; main(int(sys.argv[2]))"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, root, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is the trainer's alone
            env=environment,
        )
        theirs.close()
        ours.settimeout(START_SECONDS)
        self._control, self._replies, self._ready = ours, ours.makefile("rb"), False
        ours.sendall(json.dumps(self._hello).encode() + b"\n")

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise ConnectionError("the verifier's nursery process has died")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the verifier's workers cannot start:\n{reply['error']}")
        return reply

    def _request(self, message: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        assert self._control is not None
        if not self._ready:
            self._reply()
            self._ready = True
        body = json.dumps(message).encode()
        socket.send_fds(self._control, [body], [] if descriptor is None else [descriptor])
        return self._reply()

    def spawn(self, number: int) -> tuple[socket.socket, int]:
        """A connected worker and its process id. Raises RuntimeError where workers cannot be started at all."""
        for attempt in range(3):
            ours, theirs = socket.socketpair()
            try:
                with self._lock:
                    if self._closed:
                        raise RuntimeError("the verifier pool is closed")
                    reply = self._request({"spawn": number}, theirs.fileno())
                return ours, int(reply["pid"])
            except OSError as error:
                ours.close()
                with self._lock:
                    if attempt == 2:
                        raise RuntimeError(f"the verifier's workers cannot start: {error}") from error
                    self._stop()
                    self._start()
            finally:
                theirs.close()
        raise AssertionError("unreachable")

    def kill(self, number: int) -> None:
        with self._lock, contextlib.suppress(OSError):
            if not self._closed:
                self._request({"kill": number})

    def _stop(self) -> None:
        if self._control is not None:
            self._replies.close()
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stop()


class StarvedError(Exception):
    """The machine gave the worker too little processor time to grade its pair."""


class Slot:
    """One worker that is always there: grades chunks, enforces the time limit by killing, respawns.

    The limit is one of processor time, so that a busy machine does not turn right answers into wrong ones."""

    def __init__(self, nursery: NurseryHandle, number: int, timeout_s: float) -> None:
        self.nursery = nursery
        self.number = number
        self.timeout_s = timeout_s
        self.respawns = 0
        self._sock: socket.socket | None = None
        self._pid = 0

    def _drop(self, kill: bool) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            self.respawns += 1
            if kill:
                self.nursery.kill(self.number)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def run(self, pairs: list[Pair]) -> list[Grade]:
        """One grade a pair, whatever happens to the worker. The first try sends all pairs at once; after a death each
        pair goes alone, so that only the one that kills is blamed. A pair that was too slow for the symbolic layer is
        graded again without it: what the cheap layers say, however busy the machine is, is the standing verdict. A pair
        whose worker was starved is tried once more in a fresh one first."""
        grades: list[Grade | None] = [None] * len(pairs)
        slow: set[int] = set()
        starved: set[int] = set()
        deaths = 0
        while missing := [i for i, grade in enumerate(grades) if grade is None]:
            batch = missing if not deaths else missing[:1]
            fate, culprit = self._attempt(pairs, batch, grades, slow)
            if fate == "done":
                deaths = min(deaths, 1)
                continue
            alone = culprit if culprit is not None else (batch[0] if len(batch) == 1 else None)
            deaths += 1
            if alone is None or grades[alone] is not None:
                continue
            if fate == "starved" and alone not in starved:
                starved.add(alone)
            elif fate != "died" and alone not in slow:
                slow.add(alone)
            elif fate != "died":
                grades[alone] = Grade(False, None, "time-out", "pool", self.timeout_s)
            elif deaths >= DEATHS_BEFORE_BLAME:
                grades[alone] = Grade(False, None, "worker died", "pool")
                deaths = 1
        return [grade for grade in grades if grade is not None]

    def _attempt(
        self, pairs: list[Pair], batch: list[int], grades: list[Grade | None], without_sympy: set[int]
    ) -> tuple[str, int | None]:
        """Sends `batch` (indices into `pairs`) and fills `grades`. Returns what ended it (done, time-out, starved, died)
        and the index of the pair that the worker had announced as slow, if any."""
        if self._sock is None:
            self._sock, self._pid = self.nursery.spawn(self.number)
        sock = self._sock
        slow: int | None = None
        try:
            sock.settimeout(START_SECONDS)
            wire.send(sock, [(*pairs[i], i not in without_sympy) for i in batch])
            while True:
                self._wait_for(sock)
                message = wire.receive(sock)
                for k, *fields in message["done"]:
                    grade = Grade(*fields)
                    if batch[k] in without_sympy:
                        grade = self._standing(grade)
                    grades[batch[k]] = grade
                slow = batch[message["slow"]] if "slow" in message else None
                if message.get("end"):
                    if message.get("retire"):
                        self._drop(kill=False)
                    return "done", None
        except TimeoutError:
            self._drop(kill=True)
            return "time-out", slow
        except StarvedError:
            self._drop(kill=True)
            return "starved", slow
        except (OSError, ValueError):
            self._drop(kill=True)
            return "died", slow

    def _wait_for(self, sock: socket.socket) -> None:
        """Waits until the worker sends something. Raises TimeoutError when it has used `timeout_s` of processor time
        since it last did, StarvedError when it has not and `PATIENCE` times as much has passed on the clock."""
        started, before = time.monotonic(), processor_seconds(self._pid)
        readable = select.poll()
        readable.register(sock, select.POLLIN)
        wait = self.timeout_s
        while not readable.poll(1000 * wait):
            passed, now = time.monotonic() - started, processor_seconds(self._pid)
            used = passed if now is None or before is None else now - before
            if used >= self.timeout_s:
                raise TimeoutError
            if passed >= PATIENCE * self.timeout_s:
                raise StarvedError
            wait = max(0.02, min(self.timeout_s - used, PATIENCE * self.timeout_s - passed))
        sock.settimeout(START_SECONDS)

    def _standing(self, grade: Grade) -> Grade:
        seconds = grade.seconds + self.timeout_s
        if grade.correct:
            return replace(grade, seconds=seconds)
        return Grade(False, grade.extracted, "time-out", "pool", seconds)


def processor_seconds(pid: int) -> float | None:
    """Processor time that a process has used; None where the system does not say (it has ended, or is no Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
