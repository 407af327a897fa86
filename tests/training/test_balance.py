"""How sequences are dealt to data-parallel ranks. That the deal changes no gradient is the subject of test_layouts.py."""

import random
from itertools import pairwise

import pytest

from megatron_patches.training.batches import assign


def test_one_long_sequence_weighs_as_much_as_many_short_ones():
    assert assign([1, 1, 8, 1, 1, 1, 1, 1, 1], 2) == [[2], [0, 1, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize(("count", "ranks"), [(32, 2), (64, 8), (256, 32)])
def test_ranks_get_nearly_equal_tokens_on_a_long_tail(count, ranks):
    draw = random.Random(count)
    lengths = [min(4096, int(draw.lognormvariate(6, 1))) for _ in range(count)]
    shares = assign(lengths, ranks)
    assert sorted(i for share in shares for i in share) == list(range(count))
    tokens = [sum(lengths[i] for i in share) for share in shares]
    assert max(tokens) < 1.03 * sum(lengths) / ranks
    assert all(lengths[a] >= lengths[b] for share in shares for a, b in pairwise(share))


def test_fewer_sequences_than_ranks():
    assert assign([3, 5], 4) == [[1], [0], [], []]
