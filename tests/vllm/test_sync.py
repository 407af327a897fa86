"""A sync needs the memory of two buckets, and the check after it finds its errors.

The checksums of vLLM's weights and of the actor's tensors must be equal to the bit. At most two buckets of tensors may
be alive at once on any rank, for a model of 36 MiB and buckets of 2 and 3 MiB that single parameters fill to the last
byte. One wrong tensor on one rank must be named on all. Not covered: GPUs; errors whose gap is within
`rollout.gap_limit`, which pass by design; experts, which have no checksums.
"""

import importlib.util
from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("sync_ranks.py")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Buffers come from the system and go back to it, so that resident memory says what is held."""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "actor_tp", "engine_tp"), [(1, 1, 1), (2, 2, 1), (2, 1, 2)])
def test_a_sync_needs_two_buckets_and_its_check_names_the_wrong_tensor(world, actor_tp, engine_tp):
    run_ranks(world, SCRIPT, actor_tp, engine_tp, timeout=200, env=GIVE_BACK)
