"""vLLM in a separate process, linked over gloo: it gets weights, returns samples, and ends with its trainer.

After each sync the servers' log-probs of their own tokens must equal those of transformers on the trainer's tensors, to
1e-5: for one server, one engine over two ranks, two engines, and a trainer of two ranks. If a server is killed between
two calls, while it samples or during a sync, and servers are started again, the trainer's call must return the same
samples as without that; one loss more than `rollout.server_restarts` must end with an error that names the rank and the
command. A cut link between two hosts counts as a loss. Not covered: NCCL, whose watchdog ends waits.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts
from ranks import ROOT, free_port, run_ranks

SCRIPT = Path(__file__).with_name("standalone_ranks.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@contextlib.contextmanager
def servers(address: str, ranks: int) -> Iterator[list[subprocess.Popen]]:
    """Starts server processes in a separate world, as torchrun does."""
    world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    base = os.environ | world | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.rollout.vllm.server", address, str(ranks)],
            cwd=ROOT,
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(ranks)
    ]
    try:
        yield started
    finally:
        for server in started:
            server.kill()
            server.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("trainers", "ranks", "engine_tp"), [(1, 1, 1), (1, 2, 2), (2, 1, 1)])
def test_servers_sample_from_the_weights_they_were_sent_and_end_with_their_trainer(trainers, ranks, engine_tp):
    address = f"127.0.0.1:{free_port()}"
    with servers(address, ranks) as started:
        run_ranks(trainers, SCRIPT, address, ranks, engine_tp, timeout=200)
        assert [server.wait(timeout=60) for server in started] == [0] * ranks


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between", "samples", "sync"])
def test_a_call_that_loses_a_server_is_repeated_with_the_servers_that_come_instead(when):
    address = f"127.0.0.1:{free_port()}"
    with servers(address, 2) as started, contextlib.ExitStack() as later:

        def start_again() -> None:
            started[0].wait()  # the trainer hangs up on the server that is left
            again.extend(later.enter_context(servers(address, 2)))

        again: list[subprocess.Popen] = []
        supervisor = threading.Thread(target=start_again)
        supervisor.start()
        run_ranks(1, SCRIPT, address, 2, 1, started[1].pid, when, timeout=200)
        supervisor.join()
        assert started[0].returncode != 0
        assert [server.wait(timeout=60) != 0 for server in again] == [True, True]  # a supervisor would start them again


@pytest.mark.slow
def test_a_call_whose_link_is_cut_is_repeated_with_servers_on_another_host(tmp_path):
    """The trainer notices after a minute and a half, the servers that were cut off after three: no connection is reset."""
    address = "node0:29600"
    world = {"LOCAL_RANK": "0", "WORLD_SIZE": "1", "RANK": "0", "CUDA_VISIBLE_DEVICES": ""}

    def start(node, port, *words):
        place = {"MASTER_ADDR": f"node{node}", "MASTER_PORT": str(port)}
        path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'lib'}"
        return hosts.start(node, [sys.executable, *words], **world, **place, PYTHONPATH=path)

    with Hosts(tmp_path / "hosts") as hosts:
        trainer = start(0, 29511, str(SCRIPT), address, "1", "1", str(tmp_path), "cut")
        cut_off = start(1, 29512, "-m", "pipeline.rollout.vllm.server", address, "1")
        while not (tmp_path / "sampling").exists():
            assert trainer.poll() is None, trainer.communicate()
            time.sleep(0.1)
        hosts.cut(1)
        instead = start(0, 29513, "-m", "pipeline.rollout.vllm.server", address, "1")
        (tmp_path / "done").touch()
        out, err = trainer.communicate(timeout=600)
        assert trainer.returncode == 0, err
        assert "was lost: rank 0 of 1 (no sign of life for 90 s: its machine or the link to it is lost" in out
        assert "the cut call was repeated" in out
        _, err = cut_off.communicate(timeout=300)
        assert cut_off.returncode == 1
        assert f"The trainer at {address} has not answered for 180 s" in err
        assert instead.wait(timeout=60) == 0


@pytest.mark.parametrize("address", ["node0", "node0:", ":29600", "node0:port", "node0:70000"])
def test_a_wrong_address_is_an_error(address):
    from pipeline.common.errors import UsageError
    from pipeline.rollout.vllm.link import parse_address

    with pytest.raises(UsageError, match="expected host:port"):
        parse_address(address)
