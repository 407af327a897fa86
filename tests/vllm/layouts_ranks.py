"""Run by test_layouts.py on two real ranks: weights from pipeline stages and expert ranks into vLLM.

argv: engine's TP, then cases `family,pp,ep,tied`. Prints the gaps.
"""

import sys

from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import PLAIN, folder_of, largest_gap, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.policy import Policy
from megatron_patches.vllm_engine import VllmEngine
from megatron_patches.weights import load_hf
from pipeline.settings import Layout

UPDATES = 2


def check(family: str, layout: Layout, tied: bool, bucket_mib: float) -> None:
    model = tiny_model(family, tie_word_embeddings=tied, hidden_size=128, head_dim=32)
    settings = settings_of(model, layout, sync_bucket_mib=bucket_mib)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings)
    engine = VllmEngine(settings, policy, None, folder_of(model))
    prompts = prompts_of(6, model.vocab_size)
    for update in range(UPDATES):
        hf = hf_model(model, seed=update)
        load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
        metrics = engine.sync(policy, update)
        gap = largest_gap(hf, engine.generate(prompts, 2, PLAIN))
        print(f"{family} {layout} tied={tied}: actor {metrics['gap/sync_max']:.1e} transformers {gap:.1e}", flush=True)
        assert metrics["gap/sync_max"] < 1e-5, metrics
        assert gap < 1e-5, gap


def main() -> None:
    engine_tp = int(sys.argv[1])
    for case in sys.argv[2:]:
        family, pp, ep, tied = case.split(",")
        layout = Layout(pp=int(pp), ep=int(ep), rollout_tp=engine_tp)
        check(family, layout, tied == "tied", bucket_mib=0.01 if tied == "untied" else 128.0)
    parallel.finish()


if __name__ == "__main__":
    main()
