"""A folder in memory for each start of a stage: notes that must find room when the run's disk is full, and memory that
ranks share.

The launcher locks its folder, and the kernel frees the lock however the launcher ends. So the next start, of any run,
knows the folders of dead launchers from those of living ones, and deletes them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = "ETR_SPARE_FOLDER"
"""Environment variable of the ranks: this folder. It is local to the node."""
PREFIX = "etr-"
OWNER = "owner"
"""File with the launcher's process id, written once the folder is locked: without it the folder is just being made."""


@contextmanager
def folder() -> Iterator[Path]:
    """Makes the folder of this start, and deletes it at the end. Folders that dead launchers left are deleted first."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=_memory()) as name:
        path = Path(name)
        clear_dead(path.parent)
        lock = _lock(path)
        (path / OWNER).write_text(str(os.getpid()))
        try:
            yield path
        finally:
            if lock is not None:
                os.close(lock)


def of_this_run() -> str | None:
    """Where a rank makes files of shared memory: the launcher's folder, or without a launcher that of the system; None if
    the system has none."""
    return os.environ.get(FOLDER) or _memory()


def clear_dead(parent: Path) -> None:
    """Deletes this user's folders under `parent` whose launcher has ended."""
    for path in parent.glob(f"{PREFIX}*"):
        if not (path / OWNER).is_file() or (lock := _lock(path)) is None:
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _lock(path: Path) -> int | None:
    """Locks a folder; returns its descriptor, or None if another process holds the lock or the folder is not ours."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            os.close(handle)
    return None
