"""Processes that leave no orphans: children end with their parent, and a whole tree can be stopped."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; elsewhere nothing happens).

    `parent` is the expected process id of the parent. If that parent ended before this call, this process ends at once. Call it
    first in a child, from the main thread.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def descendants(pid: int) -> list[psutil.Process]:
    """All living processes below `pid`, also those that moved to another session or group."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def stop_tree(pid: int, grace_s: float = 2.0, include_root: bool = True) -> None:
    """Terminate `pid` and all below it, and kill what is still alive after `grace_s` seconds."""
    processes = descendants(pid)
    if include_root:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
