"""The link to vLLM servers: what is told arrives, a message that would run a command is refused, on one machine nothing
listens beyond it, and a cut link between two hosts is noticed on both. Not covered: NCCL."""

import sys
from pathlib import Path

import pytest
from hosts import Hosts
from ranks import free_port, run_ranks

SCRIPT = Path(__file__).with_name("link_ranks.py")
CUT = Path(__file__).with_name("link_cut_ranks.py")


def test_messages_arrive_and_one_that_would_run_a_command_does_not(tmp_path):
    folder = tmp_path / "made by a message"
    run_ranks(2, SCRIPT, f"127.0.0.1:{free_port()}", folder, timeout=60)
    assert not folder.exists()


@pytest.mark.slow
def test_a_cut_link_ends_the_wait_on_both_hosts_and_another_server_may_come(tmp_path):
    """The limits are 22 and 45 s. No connection is reset, so that only signs of life can tell."""
    address = "node0:29700"

    def start(node, role):
        return hosts.start(node, [sys.executable, str(CUT), address, role])

    with Hosts(tmp_path) as hosts:
        trainer, server = start(0, "trainer"), start(1, "server")
        assert trainer.stdout.readline() == "told\n", trainer.stderr.read()
        assert {place for place, port in hosts[0].listening()} == {hosts[0].address}
        start(0, "next")
        hosts.cut(1)
        out, err = trainer.communicate(timeout=150)
        lost, heard = out.splitlines()
        assert f"lost: the vLLM server at rollout.server_address={address} was lost: rank 0 of 1" in lost
        assert "no sign of life for 22 s: its machine or the link to it is lost" in lost
        assert (trainer.returncode, heard) == (0, "heard: [7]"), err
        _, err = server.communicate(timeout=150)
        assert server.returncode == 1
        assert f"The trainer at {address} has not answered for 45 s" in err
        hosts.assert_empty()
