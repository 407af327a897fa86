"""Levers of memory and time change nothing that is learned, and do what they say.

Recomputed activations, moments that travel and storages that come back hold the same bits, so three updates give the same
tensors exactly, in fp32 and bf16. A fused SwiGLU rounds differently, and buckets change the order of a sum over gradients'
squares (the norm that clips): 1e-5. Left out: what a device frees, and what overlaps with what; neither exists on a CPU.
"""

from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from tiny_models import tiny_model

from pipeline.common.errors import UsageError
from pipeline.run import checks
from pipeline.run.compose import compose
from pipeline.run.plan import memory_of
from pipeline.settings import Layout, Optimizer, Rl
from pipeline.settings.engine import check_backend

SCRIPT = Path(__file__).with_name("levers_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_nothing_that_is_learned_changes(world_size, tmp_path):
    for result in run_ranks(world_size, SCRIPT, world_size, tmp_path, timeout=240):
        assert "common state dict differs" not in result.stderr  # Megatron's warning: rank 0 alone writes that part


def test_settings_reach_megatrons_configs(world):
    from megatron.core.optimizer import OptimizerConfig

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
    assert config(fused_grad_accumulation=True).gradient_accumulation_fusion
    for recipe, form in (("tensorwise", "hybrid"), ("blockwise", "e4m3"), ("mxfp8", "e4m3")):
        built = config(fp8=recipe)
        assert (built.fp8, built.fp8_recipe, built.fp8_param) == (form, recipe, False)
    assert config().fp8 is None
    # Megatron builds these configs only where Transformer Engine is installed.
    fused = levers.of_layers(tiny_model("qwen3"), Rl(attention="te", fused_rope=True))
    assert (fused["apply_rope_fusion"], fused["attention_backend"].name) == (True, "auto")
    assert levers.of_optimizer(Optimizer()) == {}
    found = levers.of_optimizer(Optimizer(precision_aware=True, moments="bf16", beta2=0.95))
    assert found == {
        "use_precision_aware_optimizer": True, "store_param_remainders": True, "exp_avg_dtype": torch.bfloat16,
        "exp_avg_sq_dtype": torch.bfloat16,
    }  # fmt: skip
    assert all(hasattr(OptimizerConfig, name) for name in found)
    ddp = levers.of_gradients(Rl(overlap_grad_reduce=True, overlap_param_gather=True))
    assert ddp.overlap_grad_reduce
    assert ddp.overlap_param_gather
    assert ddp.grad_reduce_in_fp32


TE = ["rl.fp8=tensorwise", "rl.fused_rope=true", "rl.optimizer.precision_aware=true"]


@pytest.mark.parametrize("key", TE)
def test_levers_of_transformer_engine_say_what_is_missing(key, world):
    from megatron_patches.model.policy_model import build_chunks

    needs = rf"{key} needs Transformer Engine on GPUs \(docs/cluster\.md\), and"
    with pytest.raises(UsageError, match=f"{needs} the ranks run on the CPU"):
        checks.check_training(compose(["stage=rl", "model=tiny", key]))
    settings = compose(["stage=rl", "model=8b", "cluster=gpu8", key])
    checks.check_training(settings)
    with pytest.raises(UsageError, match=f"{needs} it is not installed"):
        check_backend(settings)
    with pytest.raises(UsageError, match=f"{needs} there is no GPU"):
        build_chunks(tiny_model("qwen3"), Layout(), settings.rl)
    if key == TE[0]:
        with pytest.raises(UsageError, match=r"needs layers of Transformer Engine, and model\.backend=local"):
            checks.check_training(compose(["stage=rl", "model=8b", "cluster=gpu8", key, "model.backend=local"]))


def test_fp8_pads_each_sequence_and_predicts_the_same_tokens(world):
    from experiences import random_experience

    from megatron_patches.training import batches

    samples = random_experience(101)
    for packed in (True, False):
        plain = batches.build(samples, [0, 3, 5], Layout(cp=2), 1, packed)
        padded = batches.build(samples, [0, 3, 5], Layout(cp=2), 1, packed, pad_to=16)
        assert padded.tokens.shape[1] % 16 == 0
        if packed:
            assert all(length % 32 == 0 for length in padded.packed.lengths)
        both = [batches.build(samples, [0, 3, 5], Layout(cp=2), rank, packed, pad_to=16).source for rank in (0, 1)]
        assert torch.cat(both).sort().values.equal(samples.tokens_of(torch.tensor([0, 3, 5])))
        assert padded.total > plain.total


def test_the_plan_counts_the_precision_aware_optimizer():
    words = ["stage=rl", "model=8b", "cluster=gpu8"]
    whole = memory_of(compose(words)).optimizer
    keys = ["rl.optimizer.precision_aware=true"]
    assert memory_of(compose([*words, *keys])).optimizer == pytest.approx(whole * 10 / 12)
    keys += ["rl.optimizer.moments=bf16", "rl.optimizer.beta2=0.95"]
    assert memory_of(compose([*words, *keys])).optimizer == pytest.approx(whole * 6 / 12)


def test_earlier_words_are_understood():
    assert [Rl(recompute=word).recompute for word in (True, False, "true", "selective")] == [
        "full", "none", "full", "selective",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"needs rl\.overlap_grad_reduce=true"):
        Rl(overlap_param_gather=True)
    with pytest.raises(ValueError, match=r"rl\.attention=te needs rl\.fused_rope=true"):
        Rl(attention="te")
    with pytest.raises(ValueError, match=r"which bf16 .* rounds away"):
        Optimizer(precision_aware=True, moments="bf16")
    with pytest.raises(ValueError, match=r"precision_aware=true needs .*cpu_offload=false"):
        Optimizer(precision_aware=True, cpu_offload=True)


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
