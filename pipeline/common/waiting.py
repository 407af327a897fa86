"""Waits that Ctrl-C ends, whenever it comes.

Python sees a signal when the system call that waits is broken off by it. One that comes in the microseconds before
that call begins breaks nothing off, and the wait goes on until what it waits for has happened: about one Ctrl-C in a
thousand that meets a program on its way into a wait. So these waits begin anew after a while.
"""

import subprocess
from concurrent.futures import Future, wait
from typing import Any, TypeVar

INTERVAL_SECONDS = 0.5
"""The longest that a signal can go unnoticed."""

T = TypeVar("T")


def result_of(future: Future[T]) -> T:
    """`future.result()`: its value, or its error raised."""
    while not future.done():
        wait([future], INTERVAL_SECONDS)
    return future.result()


def exit_code_of(process: subprocess.Popen[Any]) -> int:
    """`process.wait()`: what it ended with, a signal as its negative number."""
    while True:
        try:
            return process.wait(INTERVAL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
