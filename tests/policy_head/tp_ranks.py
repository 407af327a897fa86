"""The ranks of test_tensor_parallel.py: each also computes the whole alone and compares its part."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parent))
from head_cases import largest_gap, problem

from megatron_patches.policy_head import fused_policy_head, token_logprobs

COUNTED = ("all_gather_single", "all_reduce", "reduce_scatter_single")
calls: Counter[str] = Counter()


def count_collectives() -> None:
    """Counts every collective of the head by name."""

    def counted(name: str, inner):
        def call(*args, **kwargs):
            calls[name] += 1
            return inner(*args, **kwargs)

        return call

    for name in COUNTED:
        setattr(dist, name, counted(name, getattr(dist, name)))


def check(real: int, index: torch.Tensor | None, sequence_parallel: bool, dtype: torch.dtype, limit: float) -> None:
    rank, ranks, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    p = problem(real=real, dtype=dtype)
    options = {"temperature": 0.7, "vocab_size": real, "index": index, "chunk_tokens": 10, "chunk_vocab": 16}
    keep = torch.ones(36) if index is None else torch.zeros(36).index_fill(0, index, 1.0)

    def loss_of(logp, entropy):
        return (p.objective(slice(None), logp, entropy) * keep).sum()

    logp, entropy = token_logprobs(p.hidden, p.weight, p.targets, entropy_grad=True, **options)
    loss = loss_of(logp, entropy)
    of_hidden, of_weight = torch.autograd.grad(loss, (p.hidden, p.weight))
    of_hidden = of_hidden.chunk(ranks)[rank] if sequence_parallel else of_hidden
    of_weight = of_weight.chunk(ranks)[rank]

    hidden = (p.hidden.chunk(ranks)[rank] if sequence_parallel else p.hidden).detach().requires_grad_()
    weight = p.weight.chunk(ranks)[rank].detach().requires_grad_()
    options["sequence_parallel"] = sequence_parallel
    positions = 36 if index is None else len(index)
    some, chunks = int(positions > 0), -(-positions // 10)
    expected_calls = {
        "all_gather_single": int(sequence_parallel),
        "reduce_scatter_single": some * int(sequence_parallel),
        "all_reduce": some * int(not sequence_parallel),
    }

    calls.clear()
    ours, ours_entropy = token_logprobs(hidden, weight, p.targets, group, entropy_grad=True, **options)
    ours_loss = loss_of(ours, ours_entropy)
    gradients = torch.autograd.grad(ours_loss, (hidden, weight))
    assert dict(+calls) == dict(+Counter(expected_calls | {"all_gather_single": int(sequence_parallel) + some})), calls
    pairs = [(ours, logp), (ours_entropy, entropy), (gradients[0], of_hidden), (gradients[1], of_weight)]
    assert largest_gap(*pairs) < limit, f"recompute {real=} {sequence_parallel=} {dtype=}: {largest_gap(*pairs)}"

    calls.clear()
    fused_loss, fused, fused_entropy = fused_policy_head(hidden, weight, p.targets, p.objective, group, **options)
    gradients = torch.autograd.grad(fused_loss, (hidden, weight))
    assert dict(+calls) == dict(+Counter(expected_calls | {"all_gather_single": int(sequence_parallel) + chunks})), (
        calls
    )
    pairs = [(fused, logp), (fused_entropy, entropy), (gradients[0], of_hidden), (gradients[1], of_weight)]
    assert largest_gap(*pairs, (fused_loss, loss)) < limit, f"fused {real=} {sequence_parallel=} {dtype=}"

    for mine in (ours, ours_entropy, fused, fused_loss):
        first = mine.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, mine), "ranks must agree to the last bit, or they clip different tokens"


def main() -> None:
    dist.init_process_group("gloo")
    count_collectives()
    indices = (None, torch.tensor([35, 0, 7, 8, 21, 3, 11, 12, 13, 14, 15, 16]), torch.empty(0, dtype=torch.long))
    for real, index, sequence_parallel in itertools.product((50, 43, 20), indices, (False, True)):
        check(real, index, sequence_parallel, torch.float64, 1e-12)
    for sequence_parallel in (False, True):
        check(43, None, sequence_parallel, torch.float32, 2e-5)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
