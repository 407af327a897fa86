"""Network addresses as people type them."""

import re

from pipeline.common.errors import UsageError


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` of `rollout.server_address`. Raises `UsageError` for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"rollout.server_address={address}: expected host:port, for example node0:29600")
    return host, int(port)
