"""Both modes of the head, in one process, against the naive computation in fp64.

fp64 results must agree to rounding (1e-12 of numbers of order one): tiles, chunks and selected positions only change
the order of sums.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from head_cases import largest_gap, naive, problem

from megatron_patches.policy_head import fused_policy_head, token_logprobs
from megatron_patches.policy_head.shard import even_ranges

TILES = [{}, {"chunk_tokens": 10, "chunk_vocab": 16}, {"chunk_tokens": 1, "chunk_vocab": 7}]
POSITIONS = {
    "all": None,
    "long": torch.tensor([35, 0, 7, 8, 21, 3]),
    "boolean": torch.arange(36) % 3 == 1,
    "none": torch.zeros(36, dtype=torch.bool),
}


def selected(name: str) -> torch.Tensor:
    """Returns the named positions as a boolean `[T]`."""
    index = POSITIONS[name]
    if index is None:
        return torch.ones(36, dtype=torch.bool)
    return index if index.dtype == torch.bool else torch.zeros(36, dtype=torch.bool).index_fill(0, index, True)


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("where", POSITIONS)
@pytest.mark.parametrize(("temperature", "real"), [(1.0, 50), (0.7, 43)])
def test_both_modes_equal_the_naive_computation(tiles, where, temperature, real):
    p = problem(real=real)
    keep = selected(where)
    logp, entropy = naive(p, temperature, real)
    loss = p.objective(slice(None), logp, entropy)[keep].sum()
    expected = torch.autograd.grad(loss, (p.hidden, p.weight))
    options = {"temperature": temperature, "vocab_size": real, "index": POSITIONS[where], **tiles}

    ours, ours_entropy = token_logprobs(p.hidden, p.weight, p.targets, entropy_grad=True, **options)
    ours_loss = p.objective(slice(None), ours, ours_entropy)[keep].sum()
    got = torch.autograd.grad(ours_loss, (p.hidden, p.weight))
    assert largest_gap((ours, logp * keep), (ours_entropy, entropy * keep), (ours_loss, loss)) < 1e-12
    assert largest_gap(*zip(got, expected, strict=True)) < 1e-12

    fused_loss, fused, fused_entropy = fused_policy_head(p.hidden, p.weight, p.targets, p.objective, **options)
    got = torch.autograd.grad(fused_loss, (p.hidden, p.weight))
    assert largest_gap((fused, logp * keep), (fused_entropy, entropy * keep), (fused_loss, loss)) < 1e-12
    assert largest_gap(*zip(got, expected, strict=True)) < 1e-12
    assert not fused.requires_grad
    assert not fused_entropy.requires_grad


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_gradcheck(entropy_grad):
    p = problem(tokens=7, hidden=5, vocab=19, real=17)

    def head(hidden, weight):
        logp, entropy = token_logprobs(
            hidden, weight, p.targets, temperature=1.3, vocab_size=17, index=torch.tensor([6, 0, 2, 3]),
            entropy_grad=entropy_grad, chunk_tokens=3, chunk_vocab=5,
        )  # fmt: skip
        return (logp, entropy) if entropy_grad else logp

    assert torch.autograd.gradcheck(head, (p.hidden, p.weight))


def test_fused_gradient_agrees_with_central_differences():
    """Uses central differences along random directions, because gradcheck runs the backward more than once."""
    p = problem(tokens=7, hidden=5, vocab=19)

    def head(hidden, weight):
        return fused_policy_head(hidden, weight, p.targets, p.objective, chunk_tokens=3, chunk_vocab=5)[0]

    gradients = torch.autograd.grad(head(p.hidden, p.weight), (p.hidden, p.weight))
    steps = [1e-6 * torch.randn_like(x) for x in (p.hidden, p.weight)]
    with torch.no_grad():
        ahead = head(p.hidden + steps[0], p.weight + steps[1])
        behind = head(p.hidden - steps[0], p.weight - steps[1])
    predicted = sum((2 * step * gradient).sum() for step, gradient in zip(steps, gradients, strict=True))
    assert abs(ahead - behind - predicted) < 1e-6 * abs(predicted)


def test_fp32_keeps_six_digits_and_returns_fp32():
    p = problem(tokens=64, hidden=32, vocab=3000, dtype=torch.float32)
    logp, entropy = naive(p)
    expected = torch.autograd.grad(p.objective(slice(None), logp, entropy).sum(), (p.hidden, p.weight))
    ours, ours_entropy = token_logprobs(p.hidden, p.weight, p.targets, entropy_grad=True)
    got = torch.autograd.grad(p.objective(slice(None), ours, ours_entropy).sum(), (p.hidden, p.weight))
    assert ours.dtype == ours_entropy.dtype == torch.float32
    assert largest_gap((ours, logp), (ours_entropy, entropy)) < 1e-5
    for a, b in zip(got, expected, strict=True):
        assert largest_gap((a, b)) < 1e-5 * b.abs().max()


@pytest.mark.parametrize("fused", [False, True])
def test_sixteen_bits_round_the_weight_gradient_once(fused):
    """Sums 32 chunks of bf16 in fp32: each element differs from the exact one by one rounding (2^-9) and fp32 noise."""
    p = problem(tokens=64, hidden=16, vocab=200, dtype=torch.bfloat16)
    logp, entropy = naive(p)
    expected = torch.autograd.grad(p.objective(slice(None), logp, entropy).sum(), (p.hidden, p.weight))
    if fused:
        loss = fused_policy_head(p.hidden, p.weight, p.targets, p.objective, chunk_tokens=2)[0]
    else:
        ours = token_logprobs(p.hidden, p.weight, p.targets, entropy_grad=True, chunk_tokens=2)
        loss = p.objective(slice(None), *ours).sum()
    for a, b in zip(torch.autograd.grad(loss, (p.hidden, p.weight)), expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert ((a.double() - b).abs() <= b.double().abs() * 2**-8 + 1e-5 * b.abs().max()).all()


def test_sixteen_bit_sums_are_an_option():
    p = problem(tokens=64, hidden=16, vocab=200, dtype=torch.bfloat16)
    exact = fused_policy_head(p.hidden, p.weight, p.targets, p.objective, chunk_tokens=8)[0]
    rough = fused_policy_head(p.hidden, p.weight, p.targets, p.objective, chunk_tokens=8, fp32_sums=False)[0]
    a, b = (torch.autograd.grad(loss, p.weight)[0].double() for loss in (exact, rough))
    assert torch.equal(exact, rough)
    assert 0 < (a - b).norm() / a.norm() < 0.01


def test_positions_outside_the_index_are_never_read():
    p = problem()
    keep = POSITIONS["boolean"]
    hidden = p.hidden.detach().clone()
    hidden[~keep] = torch.nan
    hidden.requires_grad_()
    targets = p.targets.masked_fill(~keep, -100)
    logp, entropy = token_logprobs(hidden, p.weight, targets, index=keep)
    (logp.sum() + entropy.sum()).backward()
    assert torch.isfinite(logp).all()
    assert torch.isfinite(p.weight.grad).all()
    assert torch.equal(hidden.grad[~keep], torch.zeros_like(hidden.grad[~keep]))


@pytest.mark.parametrize("fused", [False, True])
def test_padding_has_no_probability_and_no_gradient(fused):
    p = problem(real=43)
    with torch.no_grad():
        p.weight[43:] = 1e6  # if these rows counted, they would have all of the probability
    if fused:
        loss, logp, _ = fused_policy_head(p.hidden, p.weight, p.targets, p.objective, vocab_size=43)
    else:
        logp, _ = token_logprobs(p.hidden, p.weight, p.targets, vocab_size=43)
        loss = logp.sum()
    loss.backward()
    assert largest_gap((logp, naive(p, vocab_size=43)[0])) < 1e-12
    assert not p.weight.grad[43:].any()
    assert p.weight.grad[:43].any()


def test_a_target_that_is_padding_has_probability_zero():
    p = problem()
    logp, _ = token_logprobs(p.hidden, p.weight, torch.full_like(p.targets, 45), vocab_size=43)
    assert torch.equal(logp, torch.full_like(logp, -torch.inf))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("size", [1e4, 1e20])
def test_extreme_logits_stay_finite(size, fused):
    p = problem(dtype=torch.float32)
    with torch.no_grad():
        p.weight.mul_(size)
    by_logp = p.by_logp.float()
    if fused:
        loss, logp, entropy = fused_policy_head(
            p.hidden, p.weight, p.targets, lambda at, logp, entropy: by_logp[at] * logp + entropy, chunk_vocab=9
        )
    else:
        logp, entropy = token_logprobs(p.hidden, p.weight, p.targets, entropy_grad=True, chunk_vocab=9)
        loss = (by_logp * logp + entropy).sum()
    loss.backward()
    assert torch.isfinite(logp).all()
    assert entropy.abs().max() < 1  # one token has almost all probability
    assert torch.isfinite(p.hidden.grad).all()
    assert torch.isfinite(p.weight.grad).all()


def test_tokens_at_minus_infinity_have_no_probability():
    """With half of the vocabulary, in whole tiles, at -inf, the result is that of the other half alone."""
    p = problem(hidden=1, vocab=40)
    with torch.no_grad():
        p.hidden.abs_()
        p.weight[20:] = -torch.inf
    targets = p.targets % 20
    expected = token_logprobs(p.hidden, p.weight, targets, vocab_size=20)
    got = token_logprobs(p.hidden, p.weight, targets, chunk_vocab=5)
    assert largest_gap(*zip(got, expected, strict=True)) < 1e-12
    gone, _ = token_logprobs(p.hidden, p.weight, targets + 20, chunk_vocab=5)
    assert torch.equal(gone, torch.full_like(gone, -torch.inf))


@pytest.mark.parametrize("fused", [False, True])
def test_no_tokens_leave_zero_gradients(fused):
    """Gradients of an empty micro-batch must still reach the parameters, because gradient hooks wait for them."""
    p = problem()
    hidden = p.hidden[:0]
    if fused:
        loss, logp, _ = fused_policy_head(hidden, p.weight, p.targets[:0], p.objective)
    else:
        logp, entropy = token_logprobs(hidden, p.weight, p.targets[:0], entropy_grad=True)
        loss = logp.sum() + entropy.sum()
    loss.backward()
    assert logp.shape == (0,)
    assert torch.equal(p.weight.grad, torch.zeros_like(p.weight))
    assert torch.equal(p.hidden.grad, torch.zeros_like(p.hidden))


def test_tied_weight_gets_both_gradients():
    p = problem()
    tokens = p.targets.roll(1)

    def total(head):
        return head(torch.nn.functional.embedding(tokens, p.weight), p.weight)

    def plain(hidden, weight):
        return (hidden @ weight.t()).log_softmax(-1).gather(1, p.targets[:, None]).sum()

    expected = torch.autograd.grad(total(plain), p.weight)[0]
    got = torch.autograd.grad(total(lambda h, w: token_logprobs(h, w, p.targets)[0].sum()), p.weight)[0]
    fused = torch.autograd.grad(
        total(lambda h, w: fused_policy_head(h, w, p.targets, lambda _at, logp, _entropy: logp)[0]), p.weight
    )[0]
    assert largest_gap((got, expected), (fused, expected)) < 1e-12


def test_a_loss_scaled_in_place_scales_the_gradient():
    """megatron-core's schedule divides the loss in place before its backward."""
    p = problem()
    loss = fused_policy_head(p.hidden, p.weight, p.targets, p.objective)[0]
    whole = torch.autograd.grad(loss, (p.hidden, p.weight))
    loss = fused_policy_head(p.hidden, p.weight, p.targets, p.objective)[0]
    loss /= 4
    quarter = torch.autograd.grad(loss, (p.hidden, p.weight))
    assert largest_gap(*((a / 4, b) for a, b in zip(whole, quarter, strict=True))) < 1e-15


def test_the_fused_head_allows_one_backward():
    p = problem()
    loss = fused_policy_head(p.hidden, p.weight, p.targets, p.objective)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only one backward"):
        loss.backward()


def test_only_what_needs_a_gradient_gets_one():
    p = problem()
    frozen = p.weight.detach()
    loss = fused_policy_head(p.hidden, frozen, p.targets, p.objective)[0]
    both = torch.autograd.grad(fused_policy_head(p.hidden, p.weight, p.targets, p.objective)[0], p.hidden)
    assert torch.equal(torch.autograd.grad(loss, p.hidden)[0], both[0])
    with torch.no_grad():
        loss, logp, _ = fused_policy_head(p.hidden, p.weight, p.targets, p.objective)
        again, _ = token_logprobs(p.hidden, p.weight, p.targets)
    assert not loss.requires_grad
    assert torch.equal(logp, again)


def test_entropy_is_nan_without_need_entropy():
    p = problem()
    logp, entropy = token_logprobs(p.hidden, p.weight, p.targets, need_entropy=False)
    assert entropy.isnan().all()
    assert torch.equal(logp, token_logprobs(p.hidden, p.weight, p.targets)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"vocab_size": 51}, r"vocab_size=51 must lie in 1\.\.50"),
        ({"index": torch.zeros(5, dtype=torch.bool)}, "one entry for each of the 36 targets; got 5"),
        ({"index": torch.zeros(5)}, "long .N. or boolean"),
        ({"chunk_tokens": 0}, "chunk_tokens=0"),
        ({"need_entropy": False, "entropy_grad": True}, "needs need_entropy=True"),
        ({"targets": torch.zeros(35, dtype=torch.long)}, "36 rows for 35 targets"),
        ({"weight": torch.zeros(50, 8)}, "must be of one type"),
        ({"weight": torch.zeros(50, 9)}, r"need hidden \[T, H\]"),
    ],
)
def test_errors_name_the_wrong_argument(change, message):
    p = problem()
    arguments = {"hidden": p.hidden, "weight": p.weight, "targets": p.targets} | change
    with pytest.raises(ValueError, match=message):
        token_logprobs(**arguments)


def test_fused_mode_rejects_wrong_shapes_and_fp16():
    p = problem()
    with pytest.raises(ValueError, match=r"a number for each position, \[36\], or their sum; got \[1\]"):
        fused_policy_head(p.hidden, p.weight, p.targets, lambda _at, logp, _entropy: logp[:1])
    half = problem(dtype=torch.float16)
    with pytest.raises(ValueError, match="loss scale"):
        fused_policy_head(half.hidden, half.weight, half.targets, p.objective)


def test_an_objective_without_logp_has_zero_gradient():
    p = problem()
    loss = fused_policy_head(p.hidden, p.weight, p.targets, lambda at, _logp, _entropy: p.by_logp[at])[0]
    loss.backward()
    assert largest_gap((loss, p.by_logp.sum())) < 1e-12
    assert not p.weight.grad.any()


@pytest.mark.parametrize("total", [0, 1, 63, 64, 65, 1000, 75_968])
@pytest.mark.parametrize("size", [1, 7, 64, 100, 4096])
def test_ranges_cover_everything_once_in_few_pieces(total, size):
    ranges = even_ranges(total, size)
    assert [i for lo, hi in ranges for i in range(lo, hi)] == list(range(total))
    assert all(0 < hi - lo <= size for lo, hi in ranges)
    assert len(ranges) == -(-total // size)
