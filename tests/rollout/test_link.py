"""The link to vLLM servers: what is told arrives, a message that would run a command is refused, and on one machine nothing
listens beyond it. Not covered: NCCL, and machines that are really apart."""

from pathlib import Path

from ranks import free_port, run_ranks

SCRIPT = Path(__file__).with_name("link_ranks.py")


def test_messages_arrive_and_one_that_would_run_a_command_does_not(tmp_path):
    folder = tmp_path / "made by a message"
    run_ranks(2, SCRIPT, f"127.0.0.1:{free_port()}", folder, timeout=60)
    assert not folder.exists()
