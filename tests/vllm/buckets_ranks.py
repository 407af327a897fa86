"""The ranks of test_buckets.py: the buckets of every layout, joined again, equal the published tensors."""

import sys

from tiny_models import FAMILIES, hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import load_hf
from megatron_patches.model.weights.buckets import BucketSender

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.settings import Layout  # isort: skip

LAYOUTS = {1: [Layout()], 2: [Layout(), Layout(tp=2), Layout(tp=2, sp=True), Layout(pp=2)]}


def received(sender: BucketSender, published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Joins the pieces to tensors. Every row must come once; rows that come twice are an error."""
    whole = {name: torch.full_like(tensor, torch.nan) for name, tensor in published.items()}
    times = {name: torch.zeros(len(tensor), dtype=torch.int64) for name, tensor in published.items()}
    for name, first, rows in sender:
        first = first or 0
        whole[name][first : first + len(rows)] = rows
        times[name][first : first + len(rows)] += 1
    assert all((count == 1).all() for count in times.values()), {n: c for n, c in times.items() if (c != 1).any()}
    return whole


def check(family: str, layout: Layout, bucket_bytes: int) -> None:
    model = tiny_model(family)
    published = hf_tensors(hf_model(model))
    parallel.initialize(layout, seed=0)
    chunks = build_chunks(model, layout)
    load_hf(chunks, model, published.__getitem__)
    sender = BucketSender(chunks, model, bucket_bytes)
    for _ in range(2):
        whole = received(sender, published)
    for name, tensor in published.items():
        assert torch.equal(whole[name], tensor), f"{family} {layout} {bucket_bytes}: {name}"
    assert sender.largest_bytes <= max(bucket_bytes, 4 * 64 * (64 + 2 * 32)), "only a fused qkv may exceed a bucket"
    padding = 4 * 64 * (128 - model.vocab_size) * (1 if model.tie_word_embeddings else 2)
    assert sender.sent_bytes == sum(4 * tensor.numel() for tensor in published.values()) + padding


def main() -> None:
    parallel.initialize(Layout(), seed=0)
    for family in sys.argv[1].split(","):
        extra = [Layout(ep=2)] if FAMILIES[family].get("experts") and dist.get_world_size() == 2 else []
        for layout in LAYOUTS[dist.get_world_size()] + extra:
            for bucket_bytes in (1 << 27, 12_345):
                check(family, layout, bucket_bytes)
    parallel.finish()


if __name__ == "__main__":
    main()
