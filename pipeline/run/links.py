"""Connections whose other end no longer answers, from the tables of Linux's network stack.

A cut cable or a switch that drops packets closes no connection: both ends wait. But the kernel counts how often it has sent
the same bytes again without an answer. A machine whose process is stopped still answers.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

OPEN = ("01", "02")
"""States: established, and connecting."""
REPEATS = 3
"""Fewer repetitions in a row happen on links that work."""


def unanswered(pids: Iterable[int]) -> dict[str, int]:
    """Addresses that do not answer these processes of this machine, with the number of repetitions in a row; empty where that
    cannot be known."""
    found: dict[str, int] = {}
    sockets = {inode for pid in pids for inode in _sockets(pid)}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # this is not Linux
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                repeats = int(words[6], 16)
                if words[3] in OPEN and repeats >= REPEATS and words[9] in sockets:
                    address = _address(words[2])
                    found[address] = max(repeats, found.get(address, 0))
    return found


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets; none of a process that has ended."""
    inodes = set()
    with suppress(OSError):
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                kind, _, inode = os.readlink(handle.path).partition(":")
                if kind == "socket":
                    inodes.add(inode.strip("[]"))
    return inodes


def _address(text: str) -> str:
    """`0100007F:1F90` -> `127.0.0.1`: words of 32 bits, each in the machine's order of bytes (little-endian)."""
    digits = text.partition(":")[0]
    packed = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    address = ip_address(packed)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
