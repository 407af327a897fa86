"""What the ranks of one attempt left goes when torchrun starts them again, so that no error of it is shown later."""

import os
from contextlib import suppress
from pathlib import Path

from pipeline.common import scratch
from pipeline.run.watchdog import NOTICE
from pipeline.stage import LOG_FOLDER, OUTCOME_FOLDER

STARTED = "started"
"""File in the launcher's own folder whose time is that of the newest attempt."""


def begin(ranks: range) -> None:
    """Called by the agent of a node just before it starts its `ranks`, while none of them lives."""
    spare = os.environ.get(scratch.FOLDER)
    if logs := os.environ.get(LOG_FOLDER):
        for rank in ranks:
            _set_aside(Path(logs) / f"rank{rank}.log")
    for folder in filter(None, (os.environ.get(OUTCOME_FOLDER), spare)):
        for name in (*(f"rank{rank}.json" for rank in ranks), f"{NOTICE}{ranks.start}.json"):
            with suppress(OSError):
                (Path(folder) / name).unlink()
    if spare:
        with suppress(OSError):
            (Path(spare) / STARTED).write_bytes(b"")


def _set_aside(log: Path) -> None:
    """`rank1.log` becomes `rank1.attempt0.log`, so that the end of `rank1.log` is of the newest attempt."""
    number = sum(1 for _ in log.parent.glob(f"{log.stem}.attempt*.log"))
    with suppress(OSError):
        log.rename(log.with_name(f"{log.stem}.attempt{number}.log"))


def begun(spare: Path) -> float:
    """When the newest attempt began, by this machine's clock; 0 if none has."""
    try:
        return (spare / STARTED).stat().st_mtime
    except OSError:
        return 0.0
