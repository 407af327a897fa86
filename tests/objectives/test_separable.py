"""The loss computed in parts: chunk by chunk as the fused policy head does, and split over context-parallel ranks."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from pipeline.objectives import PolicyLossInputs, losses, policy_loss, prepare
from pipeline.settings import Algo

FULL = {"kl_coef": 0.1, "entropy_coef": 0.01, "is_cap": 2.0, "dual_clip": 3.0}
T, N = 57, 5


def packed(dtype=torch.float64) -> PolicyLossInputs:
    """Makes N packed sequences, with some prompt tokens between them."""
    g = torch.Generator().manual_seed(0)
    old = -torch.rand(T, generator=g, dtype=torch.float64)
    sequence = torch.arange(T) * N // T
    mask = torch.rand(T, generator=g) > 0.3
    per_sequence = torch.randn(N, 1, generator=g, dtype=torch.float64)
    return PolicyLossInputs(
        logp=(old + 0.3 * torch.randn(T, generator=g)).to(dtype), old_logp=old.to(dtype),
        advantages=per_sequence.to(dtype), mask=mask, eps_low=0.2, eps_high=(0.1 + per_sequence.abs()).to(dtype),
        ref_logp=old.to(dtype) + 0.1, rollout_logp=old.to(dtype) - 0.1, entropy=torch.rand(T, generator=g).to(dtype),
        sequence=sequence, lengths=torch.bincount(sequence[mask], minlength=N), length_norm=20,
    )  # fmt: skip


def whole(inputs: PolicyLossInputs, config: Algo):
    logp, entropy = (x.detach().requires_grad_() for x in (inputs.logp, inputs.entropy))
    loss, _ = policy_loss(replace(inputs, logp=logp, entropy=entropy), config)
    loss.backward()
    return loss.detach(), logp.grad, entropy.grad


@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
@pytest.mark.parametrize("name", [name for name in losses.names() if losses.get(name).separable])
@pytest.mark.parametrize("pick", ["slices", "indices"])
def test_the_losses_of_any_chunks_add_up_to_the_whole(name, aggregate, pick):
    config = Algo(loss=name, aggregate=aggregate, **FULL)
    inputs = packed()
    want, d_logp, d_entropy = whole(inputs, config)
    prepared = prepare(replace(inputs, logp=None, entropy=None), config)
    total = 0.0
    for at in range(0, T, 10):
        where = slice(at, at + 10) if pick == "slices" else torch.arange(at, min(at + 10, T))
        logp, entropy = (x[where].detach().requires_grad_() for x in (inputs.logp, inputs.entropy))
        loss, metrics = policy_loss(prepared.tokens(logp, entropy, where), config, metrics=False)
        assert not metrics
        loss.backward()
        total += loss.item()
        # torch's sigmoid rounds differently at the end of a vector, so sapo's last digit depends on the cut.
        torch.testing.assert_close(logp.grad, d_logp[where], rtol=1e-14 if name == "sapo" else 0, atol=0)
        torch.testing.assert_close(entropy.grad, d_entropy[where], rtol=0, atol=0)
    assert total == pytest.approx(want.item(), rel=1e-14)


def test_a_chunk_of_gspo_is_refused():
    inputs = packed()
    config = Algo(loss="gspo")
    chunk = prepare(inputs, config).tokens(inputs.logp[:10], None, slice(0, 10))
    with pytest.raises(ValueError, match="separable"):
        policy_loss(chunk, config)


def test_gspo_over_two_context_parallel_ranks():
    """Each sequence's tokens lie on two ranks. A rank sees its own and gets the other's sums through `reduce`.

    The two gradients together must be that of the whole: both ranks compute the same sequence ratio, and a token's
    weight uses the whole length. The loss is the sum of both ranks' losses.
    """
    config = Algo(loss="gspo", aggregate="seq-mean-token-mean", gspo_eps_low=0.05, gspo_eps_high=0.05)
    inputs = packed()
    want, gradient, _ = whole(inputs, config)
    count = float((inputs.lengths > 0).sum())
    halves = [torch.arange(r, T, 2) for r in range(2)]
    parts = [
        replace(
            inputs, **{k: v[at] for k, v in vars(inputs).items() if isinstance(v, torch.Tensor) and v.shape == (T,)}
        )
        for at in halves
    ]
    # First pass: what each rank gives to its reductions, in order. None of it depends on what a reduction returned.
    given: list[list[torch.Tensor]] = [[], []]

    def record(mine, rank):
        given[rank].append(mine)
        return mine

    for rank, part in enumerate(parts):
        whole(replace(part, denominator=count, reduce=partial(record, rank=rank)), config)
    total = 0.0
    for rank, part in enumerate(parts):
        others = iter(given[1 - rank])
        add = partial(lambda mine, others: mine + next(others), others=others)
        loss, d_logp, _ = whole(replace(part, denominator=count, reduce=add), config)
        torch.testing.assert_close(d_logp, gradient[halves[rank]], rtol=1e-13, atol=1e-17)
        total += loss.item()
    assert total == pytest.approx(want.item(), rel=1e-13)


@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
def test_the_token_form_of_gspo_has_the_gradient_of_the_sequence_ratio(aggregate):
    config = Algo(loss="gspo", aggregate=aggregate, gspo_eps_low=0.2, gspo_eps_high=0.2)
    inputs = packed()
    _, gradient, _ = whole(inputs, config)
    logp = inputs.logp.detach().requires_grad_()
    loss = logp.new_zeros(())
    alive = int((inputs.lengths > 0).sum())
    for i in range(N):  # the paper's equation, differentiated by autograd
        mine = inputs.mask & (inputs.sequence == i)
        n = int(mine.sum())
        ratio = (logp - inputs.old_logp)[mine].mean().exp()
        a = inputs.advantages[i, 0]
        value = -torch.minimum(ratio * a, ratio.clamp(1 - inputs.eps_low, 1 + inputs.eps_high[i, 0]) * a)
        loss = loss + value * {
            "token-mean": n / int(inputs.mask.sum()), "seq-mean-token-mean": 1 / alive,
            "seq-mean-token-sum-norm": n / (20 * alive),
        }[aggregate]  # fmt: skip
    loss.backward()
    torch.testing.assert_close(gradient, logp.grad, rtol=1e-12, atol=1e-17)


def test_gradients_agree_with_finite_differences():
    inputs = packed()
    for name in losses.names():
        config = Algo(loss=name, **FULL | {"is_cap": None})
        if name == "cispo":  # its weight is detached, so its gradient is not the derivative of its value, by design
            continue
        prepared = prepare(inputs, config)
        assert torch.autograd.gradcheck(
            lambda logp, entropy, config=config, prepared=prepared: policy_loss(prepared.tokens(logp, entropy), config)[
                0
            ],
            (inputs.logp.clone().requires_grad_(), inputs.entropy.clone().requires_grad_()),
        )
