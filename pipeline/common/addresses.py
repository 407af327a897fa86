"""Network addresses as people type them."""

import errno
import re
import socket
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from pipeline.common.errors import UsageError

SAME_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Hosts that mean this machine alone, on purpose."""


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens at this machine's address of the name `host`, by which others reach it, and nowhere else.

    It listens on all interfaces where that address cannot be known: the name means 127.0.1.1 here, as Debian's /etc/hosts
    says, or an address that no interface here has. Port 0: a free one. Raises OSError, for example if the port is in use.
    """
    if host in SAME_MACHINE:
        return socket.create_server(("127.0.0.1", port))
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not ip_address(str(place[0]).partition("%")[0]).is_loopback:
            return socket.create_server(place[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` of `rollout.server_address`. Raises `UsageError` for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"rollout.server_address={address}: expected host:port, for example node0:29600")
    return host, int(port)


def parse_judge(address: str) -> SplitResult:
    """`http://host:port` of `verify.judge`; the scheme may be missing. Raises `UsageError` for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or a broken IPv6 address
        usable = False
    if not usable:
        raise UsageError(f"verify.judge={address}: expected http://host:port, for example http://127.0.0.1:8000")
    return parts


def is_local(parts: SplitResult) -> bool:
    """Whether a URL is of this machine."""
    host = parts.hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def parse_url(url: str) -> SplitResult:
    """`http://host:port` of `rollout.server_urls`, with or without a path. Raises `UsageError` for anything else."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and not (parts.username or parts.query or parts.fragment)
    except ValueError:  # a port that is no number, or a broken IPv6 address
        usable = False
    if not usable:
        raise UsageError(f"rollout.server_urls={url}: expected http://host:port, for example http://node0:8000")
    return parts
