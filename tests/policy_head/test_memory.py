"""Peak memory of both modes, measured in separate processes with the benchmark's code.

At T = 1,024 and V = 65,536 the fp32 logits are 268 MB. Recompute mode may hold one tile (512 x 4,096: 8.4 MB), fused
mode one chunk (256 x V: 67 MB; on each of two ranks half of that). 24 MB are left for the matrix library's buffers,
O(T) numbers and the interpreter.
"""

import pytest

from stages.bench.policy_head import run_case
from stages.bench.policy_head_measure import Case, Measured

SLACK = 24e6
LOGITS = 1024 * 65_536 * 4


def peak(variant: str, tp: int = 1) -> int:
    result = run_case(Case(variant=variant, tokens=1024, hidden=32, vocab=65_536, tp=tp))
    assert isinstance(result, Measured), result
    return result.peak_bytes


@pytest.mark.slow
def test_the_naive_computation_holds_the_logits_twice():
    assert peak("naive") > 2 * LOGITS  # otherwise the measurement misses memory


@pytest.mark.parametrize(
    ("variant", "tp", "limit"), [("recompute", 1, 512 * 4096 * 4), ("fused", 1, LOGITS // 4), ("fused", 2, LOGITS // 8)]
)
def test_the_head_holds_a_tile_or_a_chunk(variant, tp, limit):
    assert peak(variant, tp) < limit + SLACK
