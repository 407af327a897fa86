"""Sends frames between the pool and a worker: four bytes of length, then JSON. JSON because nothing from a process that
has read model text may be unpickled; ASCII-only, so that lone surrogates survive."""

import json
import socket
import struct
from typing import Any

HEADER = struct.Struct("!I")


def send(sock: socket.socket, message: Any) -> None:
    body = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    sock.sendall(HEADER.pack(len(body)) + body)


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the other end has closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(sock: socket.socket) -> Any:
    """The next frame. Raises ConnectionError where the other end is gone, TimeoutError by the socket's own limit."""
    (size,) = HEADER.unpack(_exactly(sock, HEADER.size))
    return json.loads(_exactly(sock, size))
