"""Starts grading workers, from the only child process of the trainer: a clean interpreter (no torch, no threads) that
loads sympy once and forks a worker in milliseconds whenever one is asked for or was killed.

It never looks at model text, so it is never busy: when the trainer dies, however it dies, the control socket closes,
and the nursery kills its workers and goes; when the nursery itself is killed, the kernel kills the workers
(PR_SET_PDEATHSIG). It leads a new session, so Ctrl-C at a terminal reaches the trainer only.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
PARENT_SECONDS = 1.0
"""Between two looks whether the trainer lives: the socket stays open while a process that the trainer forked has it."""


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)


class Nursery:
    """Serves `spawn` (with the worker's socket attached) and `kill` on the control socket until it closes."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.control.settimeout(PARENT_SECONDS)
        self.parent = os.getppid()
        self.children: dict[int, int] = {}  # pid -> worker id; a pid stays until it is reaped, so it cannot be reused
        signal.signal(signal.SIGCHLD, self._reap)

    def _reap(self, *_: Any) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) > 0:
                self.children.pop(pid, None)

    def run(self, hello: dict[str, Any]) -> None:
        from pipeline.verify.comparing import symbolic

        symbolic.load()
        self.control.sendall(b'{"ready": true}\n')
        try:
            while True:
                try:
                    message, descriptors, _, _ = socket.recv_fds(self.control, 4096, 1)
                except TimeoutError:
                    if os.getppid() != self.parent:
                        return
                    continue
                if not message:
                    return
                command = json.loads(message)  # one at a time: the trainer waits for each reply
                if "spawn" in command:
                    reply = {"pid": self._spawn(command["spawn"], descriptors[0], hello)}
                else:
                    reply = {"killed": self._kill(command["kill"])}
                self.control.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            return
        finally:
            for pid in list(self.children):
                self._kill_pid(pid)

    def _spawn(self, number: int, descriptor: int, hello: dict[str, Any]) -> int:
        parent = os.getpid()
        # A worker that died between fork and bookkeeping must not be forgotten: reap only afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(parent, descriptor, hello)
            self.children[pid] = number
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(descriptor)
        return pid

    def _become_worker(self, parent: int, descriptor: int, hello: dict[str, Any]) -> None:
        code = 1
        try:
            _die_with_parent(parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            self.control.close()
            from pipeline.verify.workers.worker import serve

            serve(socket.socket(fileno=descriptor), hello)
            code = 0
        except BaseException:
            pass  # the trainer sees the socket close and asks for another worker
        finally:
            os._exit(code)

    def _kill(self, number: int) -> bool:
        victims = [pid for pid, child in list(self.children.items()) if child == number]
        for pid in victims:
            self._kill_pid(pid)
        return bool(victims)

    def _kill_pid(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Entry point of the nursery's process; `descriptor` is its end of the control socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    try:
        hello = json.loads(control.makefile("rb").readline())
        Nursery(control).run(hello)
    except BaseException:
        with contextlib.suppress(OSError):
            control.sendall(json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
