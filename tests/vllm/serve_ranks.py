"""The trainer of test_serve.py, with the engine that asks `vllm serve` processes.

argv: the folder of the model that they serve, their URLs joined by commas, and the process group of the last, which it kills
in the middle of a call; the test starts it again.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tiny_models import hf_model, hf_tensors
from vllm_ranks import PLAIN, check_rounds, flat, largest_gap, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.engines.serve import ServeEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

from pipeline.rollout.interface import Prompt, Rollout, Sampling  # isort: skip
from pipeline.settings import Layout, Model  # isort: skip
from pipeline.settings.config_json import read_config, shape_of  # isort: skip

MOST = 48
"""New tokens of a response that is under way when its server is killed."""


def check_sampling(engine: ServeEngine, prompts: list[Prompt]) -> None:
    """Greedy and filtered sampling, as evaluation uses them, and stop tokens."""
    for how in (Sampling(max_new_tokens=6, temperature=0.0), Sampling(max_new_tokens=6, temperature=0.7, top_p=0.9)):
        found = engine.generate(prompts[:2], 2, how)
        assert {len(r.token_ids) for r in flat(found)} == {6}
        assert (found[0][0].token_ids == found[0][1].token_ids) == (how.temperature == 0)
    stops = tuple(range(8))
    for r in flat(engine.generate(prompts, 4, Sampling(max_new_tokens=8, stop_token_ids=stops))):
        assert [i for i, t in enumerate(r.token_ids) if t in stops] in ([], [len(r.token_ids) - 1])
        assert (r.finish_reason == "stop") == (r.token_ids[-1] in stops)


def check_loss(engine: ServeEngine, policy: Policy, prompts: list[Prompt], victim: int) -> None:
    """Kills a server in the middle of a call: the call returns what it would have without that, and the server is taken in
    again when it has come back."""

    def generate(on_finish=None) -> list:
        how = Sampling(max_new_tokens=MOST, seed=4)
        return [r.token_ids for r in flat(engine.generate(prompts, 12, how, on_finish=on_finish))]

    def kill(rollout: Rollout) -> None:
        if not killed:
            killed.append(victim)
            os.killpg(victim, signal.SIGKILL)

    killed: list[int] = []
    expected = generate()
    assert generate(kill) == expected
    assert killed == [victim]
    fleet = engine.main.peer
    assert len(fleet.ready) == len(fleet.servers) - 1
    deadline = time.monotonic() + 400
    count = 0
    while count < len(fleet.servers):
        assert time.monotonic() < deadline, fleet.reasons()
        time.sleep(1)
        engine.syncs -= 1  # the same name of the weights, for the same samples
        count = engine.sync(policy, engine.policy_version)["sync/servers"]
    assert generate() == expected


def main() -> None:
    urls, victim = sys.argv[2].split(","), int(sys.argv[3])
    model = Model(**shape_of(read_config(Path(sys.argv[1])), sys.argv[1]), parameters=1, dtype="fp32")
    layout = Layout()
    servers = {"mode": "serve", "server_urls": urls, "max_concurrent": 8, "max_new_tokens": 64}
    settings = settings_of(model, layout, sync_bucket_mib=0.05, **servers)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    engine = ServeEngine(policy, settings.rollout, None, settings.cluster)
    prompts = prompts_of(6, model.vocab_size)
    for update in range(3):
        hf = hf_model(model, seed=update)
        load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
        metrics = engine.sync(policy, update)
        heard: list[Rollout] = []
        groups = engine.generate(prompts, 3, PLAIN, on_finish=heard.append)
        expected = [(p.id, i) for p in prompts for i in range(3)]
        assert [(r.prompt.id, r.sample) for r in flat(groups)] == expected
        assert sorted((r.prompt.id, r.sample) for r in heard) == expected
        assert {r.policy_version for r in flat(groups)} == {update}
        assert metrics["sync/servers"] == len(urls), metrics
        assert metrics["gap/sync_max"] < 1e-5, metrics
        gap = largest_gap(hf, groups)
        assert gap < 1e-5, gap
        print(update, metrics, gap)
    check_rounds(engine, policy, model, prompts, 3)
    check_sampling(engine, prompts)
    check_loss(engine, policy, prompts, victim)
    parallel.finish()


if __name__ == "__main__":
    main()
