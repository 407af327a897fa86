"""The embedded generator at settings far from the usual ones."""

import random

from pipeline.data.arithmetic import generate, step_text
from pipeline.settings.data import LARGEST_TOTAL, Arithmetic


def test_slips_upon_slips_stay_within_the_range_of_totals():
    """A slip may leave a total from which the next term is far out of range, so that no wrong result within it is left."""
    rng = random.Random(0)
    chain = [9, 9, -9, 9, -9, 9, -9, 9, -9]
    for _ in range(300):
        steps = step_text(chain, 1.0, rng).split(";")[:-1]
        assert all(0 <= int(step.partition("=")[2]) <= LARGEST_TOTAL for step in steps)


def test_hard_problems_with_many_slips_are_generated():
    settings = Arithmetic(
        min_terms=6, max_terms=9, slip_share=0.5, train=200, held_out=8, sft_rows=50, sft_mixed_rows=400
    )
    assert len(generate(settings, seed=0).sft_mixed) == 400
