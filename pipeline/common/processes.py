"""Processes that leave no orphans: children end with their parent, and a whole tree can be stopped."""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

import psutil

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
"""Loaded here, because a forked child must not wait for the loader."""


def die_with_parent(parent: int | None = None) -> None:
    """Asks the kernel to kill this process when the thread that started it ends (Linux; elsewhere nothing happens).

    `parent` is the expected process id of the parent. If that parent ended before this call, this process ends at once. Call it
    first in a child, from the main thread.
    """
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


_forking = (0, True)
"""Process id of this process, and whether its main thread forks; noted before every fork."""


def tie_forked_children() -> None:
    """From now on every process that this one forks, and every process that those fork, ends with its parent.

    A library or a reward function may fork. A child that outlives its rank keeps the rank's sockets open, as Megatron's own
    checkpoint writer did. Programs that `subprocess` starts are not affected. Call it once.
    """
    os.register_at_fork(before=_before_fork, after_in_child=_in_forked_child)


def _before_fork() -> None:
    global _forking
    _forking = os.getpid(), threading.current_thread() is threading.main_thread()


def _in_forked_child() -> None:
    parent, by_main_thread = _forking
    if by_main_thread:
        die_with_parent(parent)
    else:  # the kernel would kill this process when the forking thread ends
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def end_process(code: int) -> NoReturn:
    """Ends this process with `code`: threads are joined, exit handlers run and output is flushed, as at the end of a program.

    Only the interpreter is not taken down. A thread of a process group frees the tensors of its last collective after the
    main thread goes on; if it then asks for Python's lock while the interpreter goes down, the process aborts (SIGABRT) after
    all its work is done. vLLM's bindings would also print a page about leaks.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads and ends thread pools
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
