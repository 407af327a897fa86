"""What killed processes leave: living processes and open ports, with their owners.

A killed process is a zombie as soon as its main thread has ended. On a busy machine its other threads wait for their turn
to end, and hold its sockets until then. psutil shows neither sockets nor environment of such a process; its threads do.
"""

import os
from contextlib import suppress
from pathlib import Path

import psutil

LISTEN = "0A"
"""State of a socket that listens, in /proc/net/tcp."""


def open_ports() -> dict[int, set[int]]:
    """Each TCP port that is open here -> the processes that listen on it."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTEN:
                inodes[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
    found: dict[int, set[int]] = {port: set() for port in inodes.values()}
    for folder in Path("/proc").glob("[0-9]*"):
        for thread in threads(int(folder.name)):
            with suppress(OSError):
                held = {os.readlink(entry) for entry in os.scandir(thread / "fd")}
                for name in held & inodes.keys():
                    found[inodes[name]].add(int(folder.name))
                break
    return found


def threads(pid: int) -> list[Path]:
    """The folders of a process's threads that have not ended."""
    found = []
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(folder)
    return found


def tagged(name: str, value: str) -> list[psutil.Process]:
    """Living processes with that variable in their environment, also a zombie of which a thread lives."""
    found = []
    for pid in psutil.pids():
        for thread in threads(pid):
            with suppress(psutil.Error, OSError):
                if f"{name}={value}".encode() in (thread / "environ").read_bytes().split(b"\0"):
                    found.append(psutil.Process(pid))
                break
    return found


def command_line(pid: int) -> list[str]:
    """Of a process, read from a thread that has not ended."""
    for thread in threads(pid):
        with suppress(OSError):
            return (thread / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    return []
