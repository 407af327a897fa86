"""The native engine on one and two ranks, for every family and layout.

Greedy responses must equal those of transformers token for token, with log-probs within 1e-5 in fp32 (the same
operations in another order). Sampled log-probs must be those of the filtered distribution. A request's tokens must
depend only on the request and the weights, so they are the same for every layout, batch and cache size. Not covered:
CUDA.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("generation_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_native_engine(world_size):
    run_ranks(world_size, SCRIPT, timeout=240)
