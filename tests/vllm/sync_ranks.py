"""The ranks of test_sync.py: the memory of a sync, and the check after it.

argv: the actor's TP, the engine's TP. Prints the figures.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from live_bytes import LiveBytes, reset_resident_peak, resident_bytes, resident_peak
from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import folder_of, settings_of

from megatron_patches import parallel
from megatron_patches.engines.sync_check import gathered
from megatron_patches.engines.vllm import VllmEngine
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.training.policy import Policy

import pytest  # isort: skip
import torch  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.rollout.vllm.blocks import checksums, find, worst  # isort: skip
from pipeline.settings import Layout, Model  # isort: skip
from pipeline.rollout.gap import GapError  # isort: skip

SHAPE = {
    "hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_query_groups": 4, "ffn_hidden_size": 1536,
    "vocab_size": 3001,
}  # fmt: skip
MIB = 2**20
BUCKETS_MIB = (0.5, 2.0, 3.0)
"""qkv is 2 MiB and fills the second; down_proj is 3 MiB and fills the third; the embedding, 5.9 MiB, exceeds all. A
fused qkv is never cut, so the first bucket is 2 MiB as well."""


def check_memory(engine: VllmEngine, policy: Policy, model: Model) -> dict[str, dict[str, float]]:
    """Measures the extra memory of a sync, in buckets: tensors (two at most), and resident (1 MiB more,
    allocator's)."""
    whole = sum(4 * tensor.numel() for _, tensor in export_tensors(policy.chunks, model))
    found = {}
    for mib in BUCKETS_MIB:
        engine.sender = BucketSender(policy.chunks, model, int(mib * MIB))
        bucket = max(int(mib * MIB), engine.sender.largest_bytes)
        assert whole > 11 * bucket
        engine.core.load(engine.sender)
        with LiveBytes() as live:
            engine.core.load(engine.sender)
        held = resident_bytes()
        reset_resident_peak()
        engine.core.load(engine.sender)
        resident = resident_peak() - held
        found[f"{mib:g} MiB"] = {"alive": live.peak / bucket, "resident": resident / bucket}
        assert 0 < live.peak <= 2 * bucket, found
        assert resident <= 2 * bucket + MIB, found
        assert live.now == 0, "a tensor of the sync is still alive"
    return found


def check_checksums(engine: VllmEngine, policy: Policy, model: Model) -> None:
    """Checks that the ranks' checksums cover every number of every tensor, and equal those of the actor."""
    holdings = gathered(checksums(engine.core.model))
    for name, tensor in export_tensors(policy.chunks, model):
        spans = sorted({(first, length) for _, first, length, _ in (held[name] for held in holdings)})
        end = 0
        for first, length in spans:
            assert first <= end, f"{name}: no rank has {end} to {first}"
            end = max(end, first + length)
        assert end == tensor.shape[holdings[0][name][0]], name
    assert worst(holdings, export_tensors(policy.chunks, model)) == (None, 0.0)


def check_blame(engine: VllmEngine, policy: Policy) -> None:
    """Checks that one wrong tensor on the last rank stops the sync on every rank with the tensor's name, and that the
    next sync repairs it. If all tensors are equal, the error says so."""
    load = engine.core.load
    spoilers: dict[str, Callable[[torch.Tensor], object]] = {
        "model.layers.1.mlp.down_proj.weight": lambda held: held[::2].mul_(3),
        "model.layers.0.self_attn.v_proj.weight": lambda held: held.copy_(
            held.flip(0)
        ),  # the same numbers in other places
        "model.layers.1.mlp.up_proj.weight": lambda held: held[:1].fill_(torch.nan),
        "model.embed_tokens.weight": lambda held: held.mul_(0.5),
        "model.norm.weight": lambda held: held.add_(2),
    }
    for name, spoil in spoilers.items():

        def load_and_spoil(pieces, name=name, spoil=spoil):
            load(pieces)
            if dist.get_rank() == dist.get_world_size() - 1:
                spoil(find(engine.core.model)[name].parameter)

        engine.core.load = load_and_spoil  # type: ignore[method-assign]
        with pytest.raises(GapError, match=rf"policy version 7: .*The worst tensor is {name}:"):
            engine.sync(policy, 7)
        engine.core.load = load  # type: ignore[method-assign]
        assert engine.sync(policy, 8)["gap/sync_max"] < 1e-5
    processor: Any = engine.core.model.logits_processor
    processor.scale *= 2
    with pytest.raises(GapError, match="Every tensor that can be compared is equal"):
        engine.sync(policy, 9)
    processor.scale /= 2


def main() -> None:
    actor_tp, engine_tp = map(int, sys.argv[1:])
    model, layout = tiny_model("qwen2", **SHAPE), Layout(tp=actor_tp, rollout_tp=engine_tp)
    settings = settings_of(model, layout, gap_limit=1.001)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    engine = VllmEngine(policy, settings.rollout, None, folder_of(model))
    load_hf(policy.chunks, model, hf_tensors(hf_model(model)).__getitem__)
    print(json.dumps(check_memory(engine, policy, model)))
    check_checksums(engine, policy, model)
    check_blame(engine, policy)
    parallel.finish()


if __name__ == "__main__":
    main()
