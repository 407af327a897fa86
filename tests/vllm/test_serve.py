"""`rollout.mode=serve`: an engine and a whole stage=rl that ask real `vllm serve` processes over HTTP.

The log-probs of the servers' responses must equal those of transformers and the actor after every update, up to fp32 rounding
(1e-5). One server is killed while it samples: the call must return what it would have without that, and the server, started
again, must get the newest weights. Not covered: GPUs and NCCL; servers with several ranks. Load, time-outs, keys and the
messages are tested without vLLM in tests/rollout/test_serve.py.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from house import House
from ranks import ROOT, free_port, run_ranks

from pipeline.common.files import read_jsonl

SCRIPT = Path(__file__).with_name("serve_ranks.py")
SHAPE = ("sft.enabled=false", "model.hidden_size=64", "model.head_dim=32")
"""A head size that vLLM knows on a CPU."""

pytestmark = [
    pytest.mark.slow,  # three starts of vLLM and a short run: 90 s of CPU in all
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
    ),
]


@dataclass
class Served:
    """One server process."""

    folder: Path
    log: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it with the options of docs/rollout.md. `vllm serve` is this module; the CPU build lacks that command."""
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder), "--host", "127.0.0.1",
            "--port", str(self.port), "--dtype", "float32", "--max-model-len", "96", "--max-num-seqs", "16",
            "--distributed-executor-backend", "uni",
            "--enforce-eager", "--load-format", "dummy", "--enable-scale-out", "--logprobs-mode", "processed_logprobs",
            "--weight-transfer-config", '{"backend": "etr_tcp"}',
            "--worker-extension-cls", "pipeline.rollout.vllm.serve.extension.Extension",
        ]  # fmt: skip
        own = {
            "PYTHONPATH": str(ROOT), "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
            "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # or each process imports vLLM again
        }  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        deadline = time.monotonic() + 400
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                text = self.log.read_text("utf-8", "replace")[-4000:]
                assert self.process is not None
                assert self.process.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.2)

    def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("served"))
    for stage in ("preprocess", "convert"):
        result = house.run(stage, *SHAPE)
        assert result.code == 0, result.err
    yield house
    house.close()


@pytest.fixture(scope="module")
def servers(house) -> Iterator[list[Served]]:
    folder = house.root() / "convert" / "hf"
    served = [Served(folder, house.folder / f"server{i}.log", free_port()) for i in range(2)]
    try:
        for server in served:
            server.start()
        for server in served:
            server.wait()
        yield served
    finally:
        for server in served:
            server.end()


def test_a_run_trains_with_responses_of_two_servers(house, servers):
    urls = ",".join(server.url for server in servers)
    words = (
        "rollout.engine=vllm",
        "rollout.mode=serve",
        f"rollout.server_urls=[{urls}]",
        "rl.async_depth=1",
        "rl.steps=2",
    )
    result = house.run("rl", *SHAPE, *words, "rl.save_every=2")
    assert result.code == 0, result.err
    rows = list(read_jsonl(house.root() / "metrics.jsonl"))
    assert [row["sync/servers"] for row in rows] == [2.0, 2.0]
    assert max(row["gap/sync_max"] for row in rows) < 1e-5
    assert rows[0]["gap/checked_mean_exp"] == pytest.approx(1, abs=1e-5)


def test_servers_hold_the_weights_they_were_sent_and_a_lost_one_is_taken_in_again(servers):
    lost = servers[1]

    def start_again() -> None:
        lost.process.wait()
        lost.start()

    supervisor = threading.Thread(target=start_again)
    supervisor.start()
    urls = ",".join(server.url for server in servers)
    run_ranks(1, SCRIPT, lost.folder, urls, lost.process.pid, timeout=600)
    supervisor.join()
