"""Nodes whose host name means this machine alone are told so at once, with what to set."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from cli import ROOT, environment

from pipeline.common.errors import UsageError
from pipeline.run import interfaces
from pipeline.settings import Cluster

LOOPBACK = "127.0.1.1"


@pytest.fixture
def resolve(monkeypatch):
    """The host's name gets this address; None: no address."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)

    def set_answer(address):
        def answer(*_, **__):
            if address is None:
                raise socket.gaierror("not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

        monkeypatch.setattr(interfaces.socket, "getaddrinfo", answer)

    return set_answer


@pytest.mark.parametrize(("address", "says"), [(LOOPBACK, f"means {LOOPBACK}"), (None, "has no address")])
@pytest.mark.parametrize("node", [0, 1])
def test_a_name_that_others_cannot_reach(resolve, address, says, node):
    resolve(address)
    with pytest.raises(UsageError, match=r"cluster\.interface=") as caught:
        interfaces.check(Cluster(nnodes=2, node_rank=node, master_addr="node0"))
    assert says in str(caught.value)
    assert "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME" in str(caught.value)


def test_what_is_not_refused(resolve, monkeypatch):
    resolve("10.1.2.3")
    interfaces.check(Cluster(nnodes=2, master_addr="node0"))
    resolve(LOOPBACK)
    interfaces.check(Cluster(nnodes=1, master_addr="node0"))
    interfaces.check(Cluster(nnodes=2, master_addr="127.0.0.1"))  # nodes on one machine
    interfaces.check(Cluster(nnodes=2, master_addr="node0", interface="lo"))
    with pytest.raises(UsageError, match="has no such interface"):
        interfaces.check(Cluster(nnodes=2, master_addr="node0", interface="eth77"))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    interfaces.check(Cluster(nnodes=2, master_addr="node0"))


def test_debians_hosts_file(tmp_path):
    """The system's own resolver, with a hosts file as Debian's installer writes it."""
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{LOOPBACK} debian-node\n")
    inside = f"hostname debian-node && mount --bind {tmp_path / 'hosts'} /etc/hosts && exec "
    call = "from pipeline.run import interfaces; from pipeline.settings import Cluster;"
    call += " interfaces.check(Cluster(nnodes=2, master_addr='node0'))"
    command = ["unshare", "--mount", "--uts", "sh", "-c", f'{inside} "$@"', "sh", sys.executable, "-c", call]
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare, to give a process its own host name")
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"namespaces are not allowed here: {result.stderr}")
    assert f"The host name debian-node means {LOOPBACK}, this machine alone" in result.stderr
