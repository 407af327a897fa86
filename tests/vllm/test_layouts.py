"""Pipeline- and expert-parallel actors with vLLM: after every sync both compute the same log-probs.

What must be equal is that of test_vllm_engine.py, to 1e-5, over two updates. PP 2 runs with engine TP 1, tied (the last
stage has a copy of the embedding) and untied in pieces of 10 kB, and with engine TP 2. EP 2 runs with engine TP 1 and
2. Not covered: PP and EP together.
"""

import importlib.util
from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("layouts_ranks.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine_tp", "cases"),
    [(1, ["qwen2,2,1,tied", "qwen2,2,1,untied", "qwen3,2,1,tied"]), (2, ["qwen2,2,1,untied"])],
)
def test_engine_and_pipeline_parallel_actor_agree_after_every_sync(engine_tp, cases):
    run_ranks(2, SCRIPT, engine_tp, *cases, timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize(("engine_tp", "tied"), [(1, "untied"), (2, "tied")])
def test_engine_and_expert_parallel_actor_agree_after_every_sync(engine_tp, tied):
    run_ranks(2, SCRIPT, engine_tp, f"qwen3_moe,1,2,{tied}", timeout=200)
