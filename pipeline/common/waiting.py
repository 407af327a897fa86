"""Waits that Ctrl-C always interrupts.

Python handles a signal when it interrupts the system call that waits. A signal that comes in the microseconds before that
call starts interrupts nothing, and the wait goes on until its event happens; about one Ctrl-C in a thousand is lost this
way. So these waits time out and start again.
"""

import subprocess
from collections.abc import Callable
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


def exit_code_of(process: subprocess.Popen[Any], meanwhile: Callable[[], None] | None = None) -> int:
    """`process.wait()`: the exit code; a signal as its negative number. `meanwhile` is called about every half second."""
    while True:
        try:
            return process.wait(INTERVAL_SECONDS)
        except subprocess.TimeoutExpired:
            if meanwhile is not None:
                meanwhile()
