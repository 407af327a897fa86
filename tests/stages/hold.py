"""Copied by kills.py to where ranks find it as `sitecustomize`: a rank waits at a chosen moment until it is killed.

HOLD_AT is the name of a Python audit event (a file operation) and a pattern of one of its paths, with a space between; or
`phase` and the name of a phase of the heartbeat. Once, the rank that comes there makes the file HOLD_MARK, and waits.
"""

import os
import re
import sys
import time

PATIENCE_S = 120


class Hold:
    """Waits at the first event that fits. Called as Python's audit hook."""

    def __init__(self, at: str, mark: str):
        self.event, pattern = at.split(" ", 1)
        self.pattern, self.mark, self.armed = re.compile(pattern), mark, True

    def __call__(self, event: str, arguments: tuple) -> None:
        if event != self.event or not self.armed:
            return
        if any(isinstance(a, str | os.PathLike) and self.pattern.search(os.fspath(a)) for a in arguments):
            self.armed = False
            os.close(os.open(self.mark, os.O_CREAT | os.O_WRONLY))
            time.sleep(PATIENCE_S)


def watch_phases(hold: Hold) -> None:
    """Phases make no audit event."""
    from pipeline.common.heartbeat import Heart

    enter = Heart.enter

    def entered(self: Heart, phase: str | None) -> None:
        enter(self, phase)
        hold("phase", (phase,))

    Heart.enter = entered


if "RANK" in os.environ and "HOLD_AT" in os.environ:
    hold = Hold(os.environ["HOLD_AT"], os.environ["HOLD_MARK"])
    sys.addaudithook(hold)
    if hold.event == "phase":
        watch_phases(hold)
