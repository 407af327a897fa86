"""What vLLM samples and what it says of it: the contract of pipeline.rollout.interface.

What must be equal: both log-probs of every sampled token and those of fp64 transformers under the declared order of filters
(temperature, top-k, top-p), to 1e-5; greedy tokens and the arg-max; a request's tokens in any batch, order, number of
places and cut of the engine. First tokens pass a chi-square test. Stop tokens and stop strings end a response, and no
token follows them. Not covered: GPUs, bf16 (there a token near the edge of its interval may fall on the other side).
"""

import importlib.util
import json
from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("sampling_ranks.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@pytest.mark.slow
def test_vllm_samples_by_the_contract_whatever_the_batch_and_the_cut():
    """Two engines on a rank each with 32 places, then one engine on both ranks with 6."""
    made = [
        json.loads(run_ranks(2, SCRIPT, engine_tp, places, timeout=200)[0].stdout.splitlines()[-1])
        for engine_tp, places in ((1, 32), (2, 6))
    ]
    assert made[0]["tokens"] == made[1]["tokens"]
