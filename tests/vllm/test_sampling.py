"""vLLM's samples and their log-probs: the contract of pipeline.rollout.interface.

Both log-probs of every sampled token must equal those of fp64 transformers with the declared order of filters
(temperature, top-k, top-p), to 1e-5. Greedy tokens must be the arg-max. A request's tokens must not depend on batch,
order, most sequences at once, or the engine's TP. First tokens must pass a chi-square test. Stop tokens and stop
strings must end a response, and no token may follow them. Not covered: GPUs, and bf16 (there a token whose number is
near the edge of its interval may change).
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
def test_vllm_samples_by_the_contract_for_every_batch_and_layout():
    """Runs two engines on one rank each with 32 sequences, then one engine on both ranks with 6."""
    made = [
        json.loads(run_ranks(2, SCRIPT, engine_tp, places, timeout=200)[0].stdout.splitlines()[-1])
        for engine_tp, places in ((1, 32), (2, 6))
    ]
    assert made[0]["tokens"] == made[1]["tokens"]
