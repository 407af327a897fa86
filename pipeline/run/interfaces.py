"""The network interface over which the nodes' ranks reach each other.

gloo listens on the address of this host's name. Debian's /etc/hosts gives that name the address 127.0.1.1, which other nodes
cannot reach: they would wait for each other until the time limit.
"""

import os
import socket
from ipaddress import ip_address

import psutil

from pipeline.common.addresses import SAME_MACHINE
from pipeline.common.errors import UsageError
from pipeline.settings import Cluster


def variables(interface: str) -> dict[str, str]:
    """Environment variables that make gloo and NCCL use an interface."""
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def check(cluster: Cluster) -> None:
    """Raises `UsageError` if the ranks of several nodes could not reach this one."""
    if cluster.nnodes == 1:
        return
    found, host = usable(), socket.gethostname()
    listed = ", ".join(f"{name} ({address})" for name, address in found.items()) or "none that is up"
    if cluster.interface is not None:
        if cluster.interface not in psutil.net_if_addrs():
            raise UsageError(f"cluster.interface={cluster.interface}: {host} has no such interface. It has: {listed}.")
        return
    if cluster.master_addr in SAME_MACHINE or os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    address = address_of(host)
    if not is_unreachable(address):
        return
    means = "has no address" if address is None else f"means {address}, this machine alone"
    first = next(iter(found), "<interface>")
    raise UsageError(
        f"The host name {host} {means}, so the other nodes could not reach the ranks here. Name the network interface that"
        f" leads to them: cluster.interface={first} (here: {listed}). Or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, or"
        f" give {host} its address in /etc/hosts."
    )


def address_of(host: str) -> str | None:
    """The first address of a host name, which is the one that gloo uses; None if it has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]).partition("%")[0]
    except OSError:
        return None


def is_unreachable(address: str | None) -> bool:
    """Whether other nodes cannot reach what listens at this node's own address."""
    return not address or ip_address(address).is_loopback


def usable() -> dict[str, str]:
    """Interfaces that are up and have an IPv4 address beyond this machine, with that address."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == socket.AF_INET and not ip_address(entry.address).is_loopback
    }
