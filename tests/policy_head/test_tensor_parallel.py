"""The head on two real gloo ranks against one process.

What must be equal, and why. Each rank holds half of the padded vocabulary. A row's log-sum-exp, target logit and
entropy are sums and maxima over disjoint halves, so log-probs, entropies and the loss are those of one process up to
the order of sums, and bit-equal between the ranks because both merge the same gathered numbers. The gradient of a
rank's half of the weight needs no other rank once the log-sum-exp is known. The gradient of the hidden states is a sum
over the vocabulary, hence over the ranks: whole on each rank without sequence parallelism, its own rows with it.

`tp_ranks.py` checks that for both modes with and without sequence parallelism, for a vocabulary without padding, with
some, and with one rank that holds padding alone (20 real tokens of 50), with all, some and no positions; and counts
the collectives. Left out: nccl, more than two ranks, and megatron-core around it (the layout tests of the actor).
"""

from pathlib import Path

from ranks import run_ranks


def test_two_ranks_are_one_process():
    run_ranks(2, Path(__file__).with_name("tp_ranks.py"))
