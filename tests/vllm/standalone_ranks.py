"""The trainer of test_standalone.py, with a standalone engine.

argv: its address, the number of server ranks, the engine's TP, and optionally the process of server rank 1, which it
    kills: `between` two calls, while a call `samples`, or during a `sync`; the test starts servers again. `cut`, with a
    folder instead of the process: once it has a response it makes the file `sampling` there, and waits for `done`, when the
    test has cut the link to the servers. On several ranks the actor has tensor parallelism.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import PLAIN, check_rounds, folder_of, largest_gap, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.engines.standalone import StandaloneVllmEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

import pytest  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.rollout.interface import Rollout  # isort: skip
from pipeline.rollout.vllm.link import ServerError  # isort: skip
from pipeline.settings import Layout  # isort: skip


def check_loss(
    engine: StandaloneVllmEngine, policy: Policy, prompts: list, address: str, victim: int, when: str
) -> None:
    """Checks that the call in which a server is killed returns what it would have without that, from servers that come
    instead; and that the next loss, one too many, ends with an error that names the rank and the command."""

    def generate(on_finish: Callable | None = None) -> list:
        groups = engine.generate(prompts, 20, PLAIN, on_finish=on_finish)
        return [[(r.token_ids, r.policy_version) for r in group] for group in groups]

    def kill(rollout: Rollout | None = None) -> None:
        if not killed:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)
        while rollout is None and Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()  # until it is dead and its connections are closed

    class Sender:
        """Kills in the middle of a sync."""

        sent_bytes = engine.sender.sent_bytes

        def __iter__(self) -> Iterator[tuple]:
            for number, piece in enumerate(sender):
                if number == 3 and not killed:
                    kill()
                yield piece

    killed: list[int] = []
    sender, expected = engine.sender, generate()
    if when == "between":
        kill()
    if when == "sync":
        engine.sender = Sender()
        engine.sync(policy, 1)
    assert generate(kill if when == "samples" else None) == expected
    assert killed == [victim]
    assert engine.restarts == 0
    assert engine.main.peer is not None
    engine.main.peer._hang_up()
    with pytest.raises(ServerError, match=rf"{address} was lost: rank .* of 2 .*torchrun .*server {address} 2\), then"):
        generate()


def check_cut(engine: StandaloneVllmEngine, prompts: list, folder: Path) -> None:
    """Checks that the call in which the link to the servers is cut returns what it would have, from others."""

    def generate(on_finish: Callable | None = None) -> list:
        groups = engine.generate(prompts, 20, PLAIN, on_finish=on_finish)
        return [[(r.token_ids, r.policy_version) for r in group] for group in groups]

    def wait(_: Rollout) -> None:
        (folder / "sampling").touch()
        while not (folder / "done").exists():
            time.sleep(0.1)

    expected = generate()
    assert generate(wait) == expected
    assert engine.restarts == 0
    print("the cut call was repeated", flush=True)


def main() -> None:
    address, ranks, engine_tp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = tiny_model("qwen2", hidden_size=128, head_dim=32)
    layout = Layout(tp=int(os.environ["WORLD_SIZE"]), rollout_tp=engine_tp)
    servers = {"mode": "standalone", "server_address": address, "server_ranks": ranks, "server_restarts": 1}
    settings = settings_of(model, layout, sync_bucket_mib=0.05, **servers)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    cluster = (
        settings.cluster.model_copy(update={"timeout_minutes": 3.0}) if sys.argv[5:] == ["cut"] else settings.cluster
    )
    engine = StandaloneVllmEngine(policy, settings.rollout, None, folder_of(model), cluster)
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
    check_rounds(engine, policy, model, prompts, 2)
    load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
    engine.sync(policy, 1)
    if sys.argv[5:] == ["cut"]:
        check_cut(engine, prompts, Path(sys.argv[4]))
    elif sys.argv[4:]:
        check_loss(engine, policy, prompts, address, int(sys.argv[4]), sys.argv[5])
    engine.close()
    parallel.finish()


if __name__ == "__main__":
    main()
