"""Copied by trials.py to where ranks find it as `sitecustomize`: a rank waits at a chosen moment, until killed or released.

HOLD_AT is the name of a Python audit event (a file operation) and a pattern of one of its paths, with a space between; or
`phase` and the name of a phase of the heartbeat. HOLD_SKIP events that fit are let pass. Only the rank HOLD_RANK waits, or
without it any. The rank that comes there makes the file HOLD_MARK, once, and waits until that file is gone.
"""

import os
import re
import sys
import time

PATIENCE_S = 120


class Hold:
    """Waits at an event that fits. Called as Python's audit hook."""

    def __init__(self, at: str, mark: str, skip: int):
        self.event, pattern = at.split(" ", 1)
        self.pattern, self.mark, self.skip, self.armed = re.compile(pattern), mark, skip, True

    def __call__(self, event: str, arguments: tuple) -> None:
        if event != self.event or not self.armed:
            return
        if not any(isinstance(a, str | bytes | os.PathLike) and self.pattern.search(os.fsdecode(a)) for a in arguments):
            return
        if self.skip:
            self.skip -= 1
            return
        self.armed = False
        os.close(os.open(self.mark, os.O_CREAT | os.O_WRONLY))
        deadline = time.monotonic() + PATIENCE_S
        while os.path.exists(self.mark) and time.monotonic() < deadline:
            time.sleep(0.02)


def watch_phases(hold: Hold) -> None:
    """Phases make no audit event."""
    from pipeline.common.heartbeat import Heart

    enter = Heart.enter

    def entered(self: Heart, phase: str | None) -> None:
        enter(self, phase)
        hold("phase", (phase,))

    Heart.enter = entered


def is_rank() -> bool:
    """Whether this process is a stage's own: `python -m stages.<name> ...`."""
    words = sys.orig_argv
    return "-m" in words[:-1] and words[words.index("-m") + 1].startswith("stages.")


if "HOLD_AT" in os.environ and is_rank():
    rank = os.environ.get("RANK", "0")
    if os.environ.get("HOLD_RANK", rank) == rank:
        hold = Hold(os.environ["HOLD_AT"], os.environ["HOLD_MARK"], int(os.environ.get("HOLD_SKIP", "0")))
        sys.addaudithook(hold)
        if hold.event == "phase":
            watch_phases(hold)
