"""Levers of memory and time change nothing that is learned, and do what they say.

Recomputed activations, moments that travel and storages that come back hold the same bits, so three updates give the same
tensors exactly, in fp32 and bf16. A fused SwiGLU rounds differently, and buckets change the order of a sum over gradients'
squares (the norm that clips): 1e-5. Left out: what a device frees, and what overlaps with what; neither exists on a CPU.
"""

from pathlib import Path

import pytest
from ranks import run_ranks
from tiny_models import tiny_model

from pipeline.common.errors import UsageError
from pipeline.run import checks
from pipeline.run.compose import compose
from pipeline.run.plan import memory_of
from pipeline.settings import Layout, Rl

SCRIPT = Path(__file__).with_name("levers_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_nothing_that_is_learned_changes(world_size, tmp_path):
    run_ranks(world_size, SCRIPT, world_size, tmp_path, timeout=240)


def test_settings_reach_megatrons_configs(world):
    from megatron_patches.model import levers
    from megatron_patches.model.policy_model import transformer_config

    def config(family: str = "qwen3", **changes):
        return transformer_config(tiny_model(family, num_layers=4), Layout(), Rl.model_validate(changes))

    full = config(recompute="full", recompute_method="block", recompute_layers=3)
    assert (full.recompute_granularity, full.recompute_method, full.recompute_num_layers) == ("full", "block", 3)
    assert config(recompute="selective").recompute_modules == ["mlp"]
    assert config("qwen3_moe", recompute="selective").recompute_modules == ["moe"]
    assert config().recompute_granularity is None
    assert config(fused_swiglu=True).bias_activation_fusion
    assert config("qwen3_moe", grouped_experts=True).moe_grouped_gemm
    ddp = levers.of_gradients(Rl(overlap_grad_reduce=True, overlap_param_gather=True))
    assert ddp.overlap_grad_reduce
    assert ddp.overlap_param_gather
    assert ddp.grad_reduce_in_fp32


def test_earlier_words_are_understood():
    assert [Rl(recompute=word).recompute for word in (True, False, "true", "selective")] == [
        "full", "none", "full", "selective",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"needs rl\.overlap_grad_reduce=true"):
        Rl(overlap_param_gather=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rl.offload=weights"], "the native engine generates from the actor's own weights"),
        (["rl.recompute=selective", "rl.recompute_modules=moe"], "the layers of this model have no experts"),
        (["model=30b-a3b", "cluster=gpu8", "rl.grouped_experts=true", "model.dtype=fp32"], "takes bf16 alone"),
    ],
)
def test_what_cannot_work_is_refused(words, said):
    with pytest.raises(UsageError, match=said):
        checks.check_training(compose(["stage=rl", *["model=tiny"] * ("model=30b-a3b" not in words), *words]))


NODE = ["stage=rl", "model=32b", "cluster=gpu8", "rollout.engine=vllm"]


def test_32b_fits_one_node_of_80_gib_with_moments_on_the_host():
    """Others run it so; without, the actor's states and vLLM's share are too large."""
    assert memory_of(compose(NODE)).generating > 100 * 2**30
    settings = compose([*NODE, "rl.optimizer.cpu_offload=true", "rl.offload=gradients,optimizer"])
    memory = memory_of(settings)
    assert memory.peak < 80 * 2**30
    parameters = 32_763_876_352
    assert memory.on_host * 8 == pytest.approx((8 + 4) * parameters, rel=0.01)  # moments, and parked masters
    assert memory.parked * 8 == pytest.approx((4 + 4) * parameters, rel=0.01)
