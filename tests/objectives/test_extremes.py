"""Extreme numbers: the loss and its gradient stay finite, and the tokens concerned are counted."""

import math

import pytest
import torch

from pipeline.objectives import PolicyLossInputs, losses, policy_loss
from pipeline.settings import Algo

INF, NAN = math.inf, math.nan
ON = {"kl_coef": 0.1, "entropy_coef": 0.01, "is_cap": 2.0, "dual_clip": 3.0}


def evaluate(config: Algo, dtype: torch.dtype = torch.float32, **given):
    """Computes loss, gradients by log-prob and entropy, and metrics of rows [B, T]; tensors not given are ordinary."""
    base = torch.full((2, 3), -1.0, dtype=dtype)
    tensors = {
        name: given.get(name, base).to(dtype).clone() for name in ("logp", "old_logp", "ref_logp", "rollout_logp")
    }
    tensors["logp"] = tensors["logp"].requires_grad_()
    entropy = given.get("entropy", base.abs()).to(dtype).clone().requires_grad_()
    advantages = given.get("advantages", torch.tensor([1.0, -1.0]))
    mask = given.get("mask", torch.ones(2, 3))
    inputs = PolicyLossInputs(**tensors, advantages=advantages, mask=mask, entropy=entropy, pass_rate=0.5)
    loss, metrics = policy_loss(inputs, config)
    loss.backward()
    return loss, tensors["logp"].grad, entropy.grad, metrics.finalize()


def is_finite(loss, logp_grad, entropy_grad, metrics) -> bool:
    numbers = [x for x in metrics.values() if not isinstance(x, dict)]
    tensors = (loss, logp_grad, torch.zeros(1) if entropy_grad is None else entropy_grad)
    return all(bool(torch.isfinite(x).all()) for x in tensors) and all(map(math.isfinite, numbers))


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4, 3e38])
def test_huge_log_ratios(name, dtype, size):
    logp = torch.full((2, 3), -1.0)
    logp[0, 0] = logp[1, 2] = size
    for given in ({"logp": logp}, {"old_logp": logp}, {"ref_logp": logp}, {"rollout_logp": logp}):
        for options in ({}, ON):
            result = evaluate(Algo(loss=name, **options), dtype, **given)
            assert is_finite(*result), (given, options)
    assert evaluate(Algo(loss=name), dtype, logp=logp)[3]["policy/clamped_tokens"] == 2
    mask = (logp == -1).float()
    masked = evaluate(Algo(loss=name), dtype, logp=logp, mask=mask)
    assert masked[3]["policy/clamped_tokens"] == 0
    plain = evaluate(Algo(loss=name), dtype, mask=mask)
    assert torch.equal(masked[0], plain[0])
    assert torch.equal(masked[1], plain[1])


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_a_clamped_ratio_passes_no_gradient(size):
    logp = torch.full((2, 3), -1.0)
    logp[1, 0] = size
    _, gradient, _, _ = evaluate(Algo(), logp=logp)
    assert gradient[1, 0] == 0
    assert gradient[1, 1] != 0


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("tensor", ["logp", "old_logp", "ref_logp", "rollout_logp", "entropy"])
def test_values_outside_the_mask_change_nothing(name, value, tensor):
    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    dirty = torch.where(mask.bool(), 1.0 if tensor == "entropy" else -1.0, value)
    got = evaluate(Algo(loss=name, **ON), mask=mask, **{tensor: dirty})
    want = evaluate(Algo(loss=name, **ON), mask=mask)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2], want[2])
    assert got[3] == want[3]


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("tensor", ["logp", "old_logp", "ref_logp", "entropy"])
def test_a_response_token_with_nan_or_infinity_is_dropped_and_counted(name, value, tensor):
    dirty = torch.full((2, 3), 1.0 if tensor == "entropy" else -1.0)
    dirty[0, 1] = value
    result = evaluate(Algo(loss=name, **ON), **{tensor: dirty})
    assert is_finite(*result)
    assert result[3]["policy/nonfinite_tokens"] == 1
    assert result[3]["policy/live_tokens"] == 1  # of the tokens that are kept
    assert result[1][0, 1] == 0
    assert result[1][0, 0] != 0


@pytest.mark.parametrize("name", losses.names())
def test_a_token_of_probability_zero_in_the_engine_gets_the_cap_as_weight(name):
    rollout = torch.full((2, 3), -1.0)
    rollout[0, 1] = -INF
    result = evaluate(Algo(loss=name, is_cap=2.0), rollout_logp=rollout)
    plain = evaluate(Algo(loss=name, is_cap=2.0))
    assert is_finite(*result)
    assert result[1][0, 1].item() == pytest.approx(2 * plain[1][0, 1].item(), rel=1e-6)
    assert result[3]["gap/nonfinite_tokens"] == 1
    assert result[3]["gap/max"] == 0
    # If the weight is off, rollout log-probs serve metrics alone and the loss does not change.
    assert torch.equal(evaluate(Algo(loss=name), rollout_logp=rollout)[0], evaluate(Algo(loss=name))[0])


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
def test_empty_responses_and_empty_micro_batches(name, aggregate):
    config = Algo(loss=name, aggregate=aggregate, **ON)
    half = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    result = evaluate(config, mask=half)
    assert is_finite(*result)
    assert not result[1][1].any()
    result = evaluate(config, mask=torch.zeros(2, 3))
    assert is_finite(*result)
    assert result[0] == 0
    assert not result[1].any()
    flat = {k: torch.zeros(0) for k in ("old_logp", "ref_logp", "rollout_logp", "advantages", "mask")}
    inputs = PolicyLossInputs(
        logp=torch.zeros(0, requires_grad=True), entropy=torch.zeros(0), sequence=torch.zeros(0, dtype=torch.int64),
        lengths=torch.zeros(0), length_norm=3, pass_rate=torch.zeros(0), **flat,
    )  # fmt: skip
    loss, metrics = policy_loss(inputs, config)
    loss.backward()
    assert loss == 0
    assert "policy/ratio_max" not in metrics  # there is no maximum over no tokens


@pytest.mark.parametrize("name", losses.names())
def test_zero_advantages_give_exact_zeros(name):
    logp = torch.tensor([[-1.0, -2, -0.5], [-9, -1, -1]])
    loss, gradient, _, _ = evaluate(Algo(loss=name), logp=logp, advantages=torch.zeros(2))
    assert loss == 0
    assert not gradient.any()
