"""JSON requests to one server over HTTP, from any number of threads."""

import http.client
import json
import os
import socket
import threading
from contextlib import suppress
from typing import Any

from pipeline.common.addresses import parse_url
from pipeline.common.errors import UserError

KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable with the key of `vllm serve --api-key`."""
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that no longer answers ends the wait for a response after these 35 seconds; a response itself may take longer."""
SHOWN = 400
"""Characters of a server's own message that an error shows."""


class ServerError(UserError):
    """A server refuses what is asked of it, or no server is left."""


class LostError(Exception):
    """A server does not answer: it refuses or breaks connections, is too late, or reports an error of its own (HTTP 5xx)."""


class Http:
    """One server. A connection serves one request, so that a server's idle limit is never taken for a loss."""

    def __init__(self, url: str, seconds: float):
        """`seconds`: the longest wait for a response. The key, if there is one, comes from `VLLM_API_KEY`."""
        parts = parse_url(url)
        self.url, self.seconds = url.rstrip("/"), seconds
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.host, self.port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Bearer {key}"
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def get(self, path: str, seconds: float | None = None) -> Any:
        return self.call("GET", path, None, seconds)

    def post(self, path: str, body: Any = None, seconds: float | None = None) -> Any:
        return self.call("POST", path, body, seconds)

    def call(self, method: str, path: str, body: Any, seconds: float | None) -> Any:
        """Returns the JSON of the response, or None if it has no body.

        Raises LostError, and ServerError for HTTP 4xx.
        """
        status, content = self.ask(method, path, body, seconds)
        if status >= 500:
            raise LostError(f"{path} failed with HTTP {status}: {_message(content)}")
        if status >= 300:
            advice = f"; give its key in {KEY_VARIABLE}" if status == 401 else ""
            raise ServerError(f"the vLLM server {self.url} refused {path} (HTTP {status}: {_message(content)}){advice}")
        if not content:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise LostError(f"{path} answered without JSON: {error}") from error

    def ask(self, method: str, path: str, body: Any = None, seconds: float | None = None) -> tuple[int, bytes]:
        """Returns the status and the content of the response. Raises LostError if there is none."""
        limit = self.seconds if seconds is None else seconds
        connection = self._kind(self.host, self.port, timeout=limit)
        with self._lock:
            self._open.add(connection)
        try:
            connection.connect()
            _keep_alive(connection.sock)
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._path + path, data, self._headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except TimeoutError as error:
            raise LostError(f"{path} had no answer within {limit:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: closed by `hang_up`
            raise LostError(f"{path}: {error or type(error).__name__}") from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def hang_up(self) -> None:
        """Ends all requests under way; the server drops what it was doing for them."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError, AttributeError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def own_address(self) -> str:
        """The address of this machine on the way to the server."""
        family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0][0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((self.host, self.port))  # sends nothing
            return probe.getsockname()[0]


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _message(content: bytes) -> str:
    """What the server says about its error, shortened."""
    text = content.decode("utf-8", "replace").strip()
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    return text[:SHOWN] or "no message"
