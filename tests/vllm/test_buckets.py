"""Weights in buckets: pieces of every size from every layout join to the published tensors, and each row is sent once.

Buckets of 12 kB split the embedding (26 kB), gate and up (49 kB) and down (25 kB). Not covered: loading into vLLM, see
test_vllm_engine.py.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("buckets_ranks.py")


@pytest.mark.parametrize(("world_size", "families"), [(1, "qwen2,qwen3"), (2, "qwen2,qwen3,qwen3_moe")])
def test_buckets_hold_every_row_once(world_size, families):
    run_ranks(world_size, SCRIPT, families)
