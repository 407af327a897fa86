"""Separates what a process prints for its user from what libraries write on the side."""

import io
import logging
import os
import sys
from pathlib import Path


def route(log: Path) -> bool:
    """Appends this process's output to `log`, except what is meant for the screen.

    On the screen stay Python's `sys.stdout` (progress, results) and records of `logging` from ERROR up. To the log go
    `sys.stderr` with Python's warnings, all records of `logging` from WARNING up, crash reports, and what native code and
    child processes write to file descriptors 1 and 2.

    Call it once, before libraries are imported: their loggers keep the stream that they find. Returns False, and changes
    nothing, if the log cannot be opened.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:  # a full disk, say, must not hide the error that is about to be reported
        return False
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    screen = io.FileIO(os.dup(1), "w")  # which no child process inherits
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(screen), encoding, errors, line_buffering=True)
    for level, stream in ((logging.NOTSET, sys.stderr), (logging.ERROR, sys.stdout)):
        handler = logging.StreamHandler(stream)
        handler.setLevel(level)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
    return True
