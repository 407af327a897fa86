"""Network addresses as people type them."""

import re
from urllib.parse import SplitResult, urlsplit

from pipeline.common.errors import UsageError


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
