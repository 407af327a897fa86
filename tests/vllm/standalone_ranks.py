"""Run by test_standalone.py: the trainer's end of a standalone engine. argv: the address at which it listens."""

import sys

from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import PLAIN, folder_of, largest_gap, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.policy import Policy
from megatron_patches.vllm_standalone import StandaloneVllmEngine
from megatron_patches.weights import load_hf
from pipeline.settings import Layout


def main() -> None:
    model, layout = tiny_model("qwen2", hidden_size=128, head_dim=32), Layout()
    settings = settings_of(model, layout, mode="standalone", server_address=sys.argv[1], sync_bucket_mib=0.05)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings)
    engine = StandaloneVllmEngine(settings, policy, None, folder_of(model))
    prompts = prompts_of(6, model.vocab_size)
    for update in range(2):
        hf = hf_model(model, seed=update)
        load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
        metrics = engine.sync(policy, update)
        heard = []
        groups = engine.generate(prompts, 2, PLAIN, on_finish=heard.append)
        assert [group[0].prompt.id for group in groups] == [prompt.id for prompt in prompts]
        assert sorted((r.prompt.id, r.sample) for r in heard) == sorted((p.id, i) for p in prompts for i in range(2))
        assert {r.policy_version for group in groups for r in group} == {update}
        assert metrics["gap/sync_max"] < 1e-5, metrics
        assert largest_gap(hf, groups) < 1e-5
    engine.close()
    parallel.finish()


if __name__ == "__main__":
    main()
