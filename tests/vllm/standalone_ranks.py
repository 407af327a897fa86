"""The trainer of test_standalone.py, with a standalone engine.

argv: its address, the number of server ranks, the engine's TP, and optionally the process of server rank 1, which it
    kills: `between` two calls, while a call `samples`, or during a `sync`. On several ranks the actor has tensor
    parallelism.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import PLAIN, folder_of, largest_gap, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.engines.standalone import StandaloneVllmEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

import pytest  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.rollout.interface import Rollout  # isort: skip
from pipeline.rollout.vllm.link import ServerError  # isort: skip
from pipeline.settings import Layout  # isort: skip


def check_loss(engine: StandaloneVllmEngine, call: Callable, address: str, victim: int, when: str) -> None:
    """Checks that a killed server ends the call with an error that names its rank and the command to start it again."""

    def kill(rollout: Rollout | None = None) -> None:
        os.kill(victim, signal.SIGKILL)
        while rollout is None and Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()  # until it is dead and its connections are closed

    def pieces() -> Iterator[tuple]:
        for number, piece in enumerate(sender):
            if number == 3:
                kill()
            yield piece

    sender = engine.sender
    if when == "between":
        kill()
    if when == "sync":
        engine.sender = pieces()
    with pytest.raises(ServerError, match=rf"{address} was lost: rank 1 of 2 .*torchrun .*server {address} 2\)"):
        call(kill if when == "samples" else None)
    assert engine.link is None


def main() -> None:
    address, ranks, engine_tp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = tiny_model("qwen2", hidden_size=128, head_dim=32)
    layout = Layout(tp=int(os.environ["WORLD_SIZE"]), rollout_tp=engine_tp)
    servers = {"mode": "standalone", "server_address": address, "server_ranks": ranks}
    settings = settings_of(model, layout, sync_bucket_mib=0.05, **servers)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    engine = StandaloneVllmEngine(policy, settings.rollout, None, folder_of(model), settings.cluster.timeout_minutes)
    prompts = prompts_of(6, model.vocab_size)
    for update in range(2):
        hf = hf_model(model, seed=update)
        load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
        metrics = engine.sync(policy, update)
        heard = []
        groups = engine.generate(prompts, 2, PLAIN, on_finish=heard.append)
        assert [group[0].prompt.id for group in groups] == [prompt.id for prompt in prompts]
        expected = [(p.id, i) for p in prompts for i in range(2)] if dist.get_rank() == 0 else []
        assert sorted((r.prompt.id, r.sample) for r in heard) == sorted(expected)
        assert {r.policy_version for group in groups for r in group} == {update}
        assert metrics["gap/sync_max"] < 1e-5, metrics
        assert largest_gap(hf, groups) < 1e-5
    if sys.argv[4:]:
        victim, when = int(sys.argv[4]), sys.argv[5]

        def call(on_finish: Callable | None) -> None:
            if when == "sync":
                engine.sync(policy, 2)
            else:
                engine.generate(prompts, 20, PLAIN, on_finish=on_finish)

        check_loss(engine, call, address, victim, when)
    engine.close()
    parallel.finish()


if __name__ == "__main__":
    main()
