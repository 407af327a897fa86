"""Hugging Face weights into Megatron and out again, at one and at two ranks.

What must hold: the logits are transformers' within 1e-5 in fp32 (the same operations, other kernels); an export is the
published tensors bit for bit (cutting and joining moves numbers, it computes none); a checkpoint saved at one layout
loads at any other with the same tensors bit for bit. Not covered: logits under pipeline parallelism, which
test_layouts.py checks through log-probs.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("weights_ranks.py")
MODELS = "qwen2,qwen2-tied,qwen3,qwen3-untied,llama,llama-tied,qwen3_moe"


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_family_round_trips(world_size, tmp_path):
    run_ranks(world_size, SCRIPT, tmp_path, MODELS, timeout=180)
