"""The warm-up's memory in the plan, against live bytes of DeepSpeed's engine between steps, as docs/log.md has them."""

import pytest

from pipeline.run.compose import compose
from pipeline.run.sft_memory import BUCKET, estimate
from pipeline.run.shapes import count


@pytest.mark.parametrize(
    ("stage", "dtype", "ranks", "measured"),
    [
        (0, "fp32", 2, 12.0), (1, "fp32", 2, 14.0), (2, "fp32", 2, 14.0), (3, "fp32", 2, 10.0), (1, "fp32", 4, 11.0),
        (2, "fp32", 4, 11.0), (1, "bf16", 2, 10.0), (2, "bf16", 4, 7.0), (3, "bf16", 2, 8.0),
    ],
)  # fmt: skip
def test_states_are_those_of_the_engine(stage, dtype, ranks, measured):
    settings = compose(["stage=sft", "model=0.6b", f"model.dtype={dtype}", f"sft.zero_stage={stage}"])
    found, total = estimate(settings, ranks, on_gpu=True), count(settings.model).total
    element = 2 if dtype == "bf16" else 4
    freed = 4 * total if stage == 0 else 0  # without ZeRO gradients go after each step
    assert found.states - found.overhead - freed == pytest.approx(measured * total, rel=0.01)
    live = total if stage == 3 else 0
    assert found.buffers == (BUCKET * (stage > 0) + live) * element
