"""vLLM beside the actor on the same ranks: after every sync both give the same log-probs, whatever the two layouts are.

What must be equal: the engine's weights are the actor's, so its log-probs of the tokens that it sampled are those of
transformers on the published tensors, and those of the actor, up to fp32 rounding (1e-5), over five updates, tied and
untied, with whole tensors in one bucket and with tensors cut into pieces of 10 kB. Not covered: GPUs, sleeping, pipeline
and expert parallel actors (their buckets are tested without vLLM in test_buckets.py).
"""

import importlib.util
from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("vllm_ranks.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@pytest.mark.slow
@pytest.mark.parametrize(("actor_tp", "engine_tp"), [(2, 1), (2, 2), (1, 2)])
def test_engine_and_actor_agree_after_every_sync(actor_tp, engine_tp):
    run_ranks(2, SCRIPT, actor_tp, engine_tp, timeout=280)
