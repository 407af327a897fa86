"""vLLM in a process of its own, linked over gloo: weights arrive, samples come back, and it ends with its trainer.

What must be equal: after each sync the server's log-probs of its own tokens are those of transformers on the tensors that
the trainer holds, to 1e-5. Not covered: several servers, NCCL.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import ROOT, free_port, run_ranks

SCRIPT = Path(__file__).with_name("standalone_ranks.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@pytest.mark.slow
def test_a_server_samples_from_the_weights_it_was_sent_and_ends_with_its_trainer():
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.rollout.vllm.server", address, "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        run_ranks(1, SCRIPT, address, timeout=200)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()


@pytest.mark.parametrize("address", ["node0", "node0:", ":29600", "node0:port", "node0:70000"])
def test_an_address_that_cannot_be_is_refused(address):
    from pipeline.errors import UsageError
    from pipeline.rollout.vllm.link import parse_address

    with pytest.raises(UsageError, match="expected host:port"):
        parse_address(address)
