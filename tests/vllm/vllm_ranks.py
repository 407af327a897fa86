"""The ranks of test_vllm_engine.py: weights from every layout of the actor into every layout of the engine.

argv: the actor's TP, the engine's TP.
"""

import json
import sys
import tempfile
from pathlib import Path

from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.engines.vllm import VllmEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.models.folders import config_of  # isort: skip
from pipeline.rollout.interface import Prompt, Rollout, RolloutEngine, Sampling, begin  # isort: skip
from pipeline.settings import Layout, Model, Rollout as RolloutSettings, Settings  # isort: skip

UPDATES = 5
PLAIN = Sampling(max_new_tokens=12, seed=3)


def settings_of(model: Model, layout: Layout, **rollout) -> Settings:
    names = {f"{kind}_name": "test" for kind in ("model", "algo", "data", "cluster")}
    options = {"max_prompt_tokens": 32, "max_new_tokens": 32, "kv_memory_gib": 0.05, "max_concurrent": 32} | rollout
    return Settings(stage="rl", name="test", model=model, layout=layout, rollout=RolloutSettings(**options), **names)


def folder_of(model: Model, rank: int = 0) -> str:
    """Makes a folder with only the config, as the convert stage does."""
    folder = Path(tempfile.mkdtemp())
    config = config_of(model).to_dict() | {"architectures": [type(hf_model(model)).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def prompts_of(count: int, vocabulary: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    ids = [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return [Prompt(id=f"p{i}", token_ids=some, gold="") for i, some in enumerate(ids)]


@torch.no_grad()
def reference(hf, rollouts: list[Rollout]) -> list[torch.Tensor]:
    """Computes each response's fp64 log-softmax rows [response, V] with transformers."""
    rows = []
    for r in rollouts:
        logps = hf(torch.tensor([r.prompt.token_ids + r.token_ids])).logits[0].double().log_softmax(-1)
        rows.append(logps[len(r.prompt.token_ids) - 1 : -1])
    return rows


def largest_gap(hf, groups: list[list[Rollout]]) -> float:
    """Returns the largest difference between the engine's log-probs of its own tokens and those of transformers."""
    rollouts = [r for group in groups for r in group]
    return max(
        float((torch.tensor(r.raw_logps) - rows.gather(1, torch.tensor(r.token_ids)[:, None])[:, 0]).abs().max())
        for r, rows in zip(rollouts, reference(hf, rollouts), strict=True)
    )


def check_rounds(engine: RolloutEngine, policy: Policy, model: Model, prompts: list[Prompt], first: int) -> None:
    """Checks responses that continue over updates, from version `first` on: each token has the log-prob of the weights that
    sampled it, and none is lost or changed."""
    groups, weights = begin(prompts, 2), [hf_model(model, seed=20 + number) for number in range(2)]
    for number in (0, 1, 1):
        load_hf(policy.chunks, model, hf_tensors(weights[number]).__getitem__)
        engine.sync(policy, first + number)
        before, groups = groups, engine.advance(groups, PLAIN, 4)
        for old, new in zip(flat(before), flat(groups), strict=True):
            made = len(old.token_ids)
            assert new.token_ids[:made] == old.token_ids
            assert new.logps[:made] == old.logps
    rollouts = flat(groups)
    assert {(len(r.token_ids), r.finish_reason) for r in rollouts} == {(12, "length")}
    assert {tuple(r.token_versions) for r in rollouts} == {(first,) * 4 + (first + 1,) * 8}
    for number, hf in enumerate(weights):
        for rollout, rows in zip(rollouts, reference(hf, rollouts), strict=True):
            mine = torch.tensor(rollout.token_versions) == first + number
            raw = rows.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(rollout.raw_logps)[mine].double(), raw[mine], rtol=0, atol=1e-5)


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def check(layout: Layout, tied: bool, bucket_mib: float, family: str = "qwen2", updates: int = UPDATES) -> None:
    model = tiny_model(
        family, tie_word_embeddings=tied, hidden_size=128, head_dim=32
    )  # sizes that vLLM supports on a CPU
    settings = settings_of(model, layout, sync_bucket_mib=bucket_mib)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    engine = VllmEngine(policy, settings.rollout, None, folder_of(model))
    prompts = prompts_of(6, model.vocab_size)
    for update in range(updates):
        hf = hf_model(model, seed=update)
        load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
        metrics = engine.sync(policy, update)
        gap = largest_gap(hf, engine.generate(prompts, 2, PLAIN))
        assert metrics["gap/sync_max"] < 1e-5, metrics
        assert gap < 1e-5, gap
        if dist.get_rank() == 0:
            print(
                f"{family} {layout} tied={tied} update {update}: actor {metrics['gap/sync_max']:.1e} transformers {gap:.1e}",
                metrics,
            )
    check_rounds(engine, policy, model, prompts, updates)


def main() -> None:
    actor_tp, engine_tp = map(int, sys.argv[1:])
    layout = Layout(tp=actor_tp, rollout_tp=engine_tp)
    for tied, bucket_mib in ((True, 128.0), (False, 0.01)):
        check(layout, tied, bucket_mib)
    parallel.finish()


if __name__ == "__main__":
    main()
