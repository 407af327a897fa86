"""The warm-up's memory in the plan: what the measured figures of docs/log.md say at a model's real size."""

import pytest

from pipeline.run.compose import compose
from pipeline.run.sft_memory import BUCKET, FETCH, LIVE, estimate
from pipeline.run.shapes import count


def planned(stage: int, ranks: int, *words: str):
    settings = compose(["stage=sft", "model=8b", "cluster=gpu8", f"sft.zero_stage={stage}", *words])
    return estimate(settings, ranks, on_gpu=True), count(settings.model).total, settings


@pytest.mark.parametrize(
    ("stage", "dtype", "ranks", "measured"),
    [
        (0, "fp32", 2, 12.0), (1, "fp32", 2, 10.0), (2, "fp32", 2, 10.0), (3, "fp32", 2, 10.0), (1, "fp32", 4, 7.0),
        (2, "fp32", 4, 7.0), (0, "bf16", 2, 14.0), (1, "bf16", 2, 8.0), (2, "bf16", 4, 5.0), (3, "bf16", 2, 8.0),
    ],
)  # fmt: skip
def test_what_stays_between_steps(stage, dtype, ranks, measured):
    """Bytes of a parameter, without the bucket that ZeRO 3 keeps."""
    found, total, _ = planned(stage, ranks, f"model.dtype={dtype}")
    element = 2 if dtype == "bf16" else 4
    bucket = BUCKET * element if stage == 3 else 0
    assert found.weights + found.optimizer + found.between - bucket == pytest.approx(measured * total, rel=0.001)


def test_moments_at_a_real_size():
    """8b on 16 ranks: ZeRO 1 is fullest with all gradients, ZeRO 3 with what is gathered; more ranks are less memory."""
    first, total, _ = planned(1, 16)
    assert min(moment.gradients for moment in first.moments[:-1]) == 2 * total, (
        "gradients of earlier micro-batches are whole"
    )
    assert first.fullest.buffers == 2 * BUCKET
    assert first.states < first.peak < planned(1, 8)[0].peak
    third, _, _ = planned(3, 16)
    gathered = {moment.name: moment.buffers for moment in third.moments}
    assert gathered["the sum over ranks"] == 2 * (BUCKET + LIVE + FETCH)
    assert gathered["the optimizer step"] == 2 * BUCKET
    assert third.peak < planned(2, 16)[0].peak < first.peak


def test_a_micro_batch_has_no_more_rows_than_there_are():
    """One row of a rank, whatever sft.micro_batch_size allows."""
    alone = [planned(1, 64, "sft.batch_size=64", f"sft.micro_batch_size={rows}")[0].peak for rows in (1, 32)]
    assert alone[0] == alone[1]
