"""The warm-up's loss, weights and skipped steps do not depend on the stage of ZeRO, and weights are never whole under stage 3.

On two gloo ranks, in fp32, with gradient accumulation. Not covered here: bf16, GPUs, and the command line (tests/stages).
"""

from pathlib import Path

from ranks import run_ranks

SCRIPT = Path(__file__).with_name("zero_ranks.py")


def test_every_stage_makes_the_same_warm_up_and_skips_what_is_not_finite(tmp_path):
    run_ranks(2, SCRIPT, tmp_path, timeout=240, env={"DS_ACCELERATOR": "cpu"})
