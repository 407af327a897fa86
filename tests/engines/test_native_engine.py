"""The native engine at one and at two ranks, on every family and layout.

What must hold: greedy responses are those of transformers, token for token, and log-probs within 1e-5 in fp32 (the same
operations in another order); sampled log-probs are those of the filtered distribution; a request's tokens depend on
nothing but the request and the weights, so they are the same at every layout, batch and cache size. Not covered: CUDA.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("generation_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_native_engine(world_size):
    run_ranks(world_size, SCRIPT, timeout=240)
