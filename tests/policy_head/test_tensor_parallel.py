"""The head on two real gloo ranks against one process.

What must be equal, and why: each rank holds half of the padded vocabulary. A row's log-sum-exp, target logit and
entropy are sums and maxima over disjoint halves. So log-probs, entropies and the loss equal those of one process up to
the order of sums. They are bit-equal between the ranks, because both merge the same gathered numbers. The gradient of a
rank's half of the weight needs no other rank once the log-sum-exp is known. The gradient of the hidden states is a sum
over the vocabulary, and so over the ranks. Without sequence parallelism each rank has all of it, with it its own rows.

`tp_ranks.py` checks that for both modes, with and without sequence parallelism; for a vocabulary with no padding, some
padding, and a rank with only padding (20 real tokens of 50); and with all, some and no positions. It also counts the
collectives. Not covered: nccl, more than two ranks, and megatron-core (see the layout tests of the actor).
"""

from pathlib import Path

from ranks import run_ranks


def test_two_ranks_equal_one_process():
    run_ranks(2, Path(__file__).with_name("tp_ranks.py"))
