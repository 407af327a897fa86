"""vLLM and the actor on the same ranks: after every sync both compute the same log-probs, for any two layouts.

The engine's weights are the actor's. So its log-probs of its own tokens must equal those of transformers on the
published tensors, and those of the actor, up to fp32 rounding (1e-5). This is checked over five updates, tied and
untied, with whole tensors in one bucket and with pieces of 10 kB. Not covered: GPUs, sleeping, pipeline- and
expert-parallel actors (test_buckets.py tests their buckets without vLLM).
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
