"""One optimizer step at every layout equals one process of transformers and torch.

What must be equal, and why. The step's loss is `sum_t w_t * f(logp_t, ...)`, where t runs over the response tokens of the
minibatch and w_t holds the minibatch's own denominator, which every rank works out from the experience that all hold.
    - Data parallel ranks, context parallel ranks and micro-batches each hold some of the t. Nothing is averaged, so the
      sum of their gradients is the gradient of the sum, whatever the cut.
    - Tensor and sequence parallel ranks hold parts of each product. Their sums are the whole products; norms see whole
      hidden vectors; the head's max, sum-exp, target and entropy terms are combined over the vocabulary's shards.
    - Pipeline ranks (and their interleaved chunks) hold whole layers; a tied embedding's two gradients are added.
    - Packed rows see the same keys as padded ones: each sequence its own, causally.
    - A rank or micro-batch without a response token adds exact zeros, and takes part in every collective.
    - A GSPO ratio needs a whole sequence: its detached sums cross context-parallel ranks, the gradient does not.
Models: Qwen3 (q/k norms, tied embedding), Llama (untied, its rope stretched by numbers that are not Llama 3.1's) and
Qwen3-MoE (experts cut over tensor- and over expert-parallel ranks); at two ranks every family with tied and untied
embeddings, Qwen2 with its biases among them. Micro-batches of one, two, four and all sequences.
So log-probs agree with transformers to 1e-5, gradient norms and metrics to 1e-5 and 1e-4 relative, and parameters after a
clipped AdamW step to 1e-5 relative of each tensor's norm. fp32 rounding alone remains; Adam's first step divides each
gradient by its own size, which would turn a wrong sign or scale of any single parameter into an error of lr, 20 times more.

A checkpoint after two steps, weights and Adam's memory, then goes on at another layout (`resharding.py`): after five
more steps the parameters are within 1e-5 relative of those of the layout that saved it.

In bf16, whose rounding depends on the cut, one process is held to a few percent of fp32. Left out: more than 4 ranks, and
dropout (none). Expert parallelism is also cut together with pipeline and with context parallelism, at four ranks.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("layouts_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_step_is_the_same_at_every_layout(world_size, tmp_path):
    run_ranks(world_size, SCRIPT, world_size, tmp_path / "checkpoints", timeout=240)
