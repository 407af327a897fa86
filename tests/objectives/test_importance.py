"""Importance weights: every form on the same five tokens, worked out by hand, and what a masked token leaves behind."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from megatron_patches.training.policy_loss import Objective
from pipeline.objectives import PolicyLossInputs, losses, policy_loss, prepare
from pipeline.settings import Algo, Rl, Rollout

RATIOS = torch.tensor([0.2, 1.5, 6.0, 1.25, 0.8], dtype=torch.float64)
"""exp(old_logp - rollout_logp) of two responses, of three tokens and of two: their products are 1.8 and 1.0."""
WEIGHTS = {
    "tis": [0.2, 1.5, 2.0, 1.25, 0.8],
    "icepop": [0.0, 1.5, 0.0, 1.25, 0.8],
    "token_mis": [0.2, 1.5, 0.0, 1.25, 0.8],
    "sequence_mis": [1.8, 1.8, 1.8, 1.0, 1.0],
}
OLD = torch.log(torch.tensor([0.5, 0.4, 0.3, 0.6, 0.7], dtype=torch.float64))


def inputs(**changes) -> PolicyLossInputs:
    """Packed tokens with logp = old_logp, so that a token's loss is -A times its weight, and so is its gradient."""
    return PolicyLossInputs(**{
        "logp": OLD.clone(), "old_logp": OLD, "rollout_logp": OLD - RATIOS.log(),
        "advantages": torch.tensor([[2.0], [-1.0]]), "sequence": torch.tensor([0, 0, 0, 1, 1]),
    } | changes)  # fmt: skip


def run(given: PolicyLossInputs, config: Algo):
    logp = given.logp.clone().requires_grad_()
    loss, metrics = policy_loss(replace(given, logp=logp), config)
    loss.backward()
    return loss.item(), logp.grad, metrics.finalize()


@pytest.mark.parametrize("form", WEIGHTS)
def test_the_worked_number(form):
    loss, gradient, metrics = run(inputs(), Algo(is_form=form, is_weight="on"))
    advantages = [2, 2, 2, -1, -1]
    # The denominator is all five tokens, masked ones included.
    want = [-a * w / 5 for a, w in zip(advantages, WEIGHTS[form], strict=True)]
    assert loss == pytest.approx(sum(want), rel=1e-12)
    assert gradient.tolist() == pytest.approx(want, rel=1e-12)
    assert metrics["gap/is_weight"] == pytest.approx(sum(WEIGHTS[form]) / 5)
    assert metrics["gap/ratio_mean"] == pytest.approx(float(RATIOS.mean()))
    assert (metrics["gap/ratio_min"], metrics["gap/ratio_max"]) == (pytest.approx(0.2), pytest.approx(6.0))
    assert metrics.get("gap/masked") == (None if form == "tis" else WEIGHTS[form].count(0.0) / 5)


def test_a_sequence_is_masked_whole():
    loss, gradient, metrics = run(inputs(), Algo(is_form="sequence_mis", is_cap=1.5))
    assert gradient.tolist() == pytest.approx([0, 0, 0, 1 / 5, 1 / 5])
    assert loss == pytest.approx(2 / 5)
    assert metrics["gap/masked"] == 3 / 5


@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
@pytest.mark.parametrize("name", losses.names())
def test_masked_tokens_have_exactly_no_gradient_and_change_no_other(name, aggregate):
    config = Algo(loss=name, aggregate=aggregate, is_form="icepop", is_cap=1e6, is_floor=0.0)
    given = inputs(logp=OLD + torch.tensor([0.1, -0.2, 0.05, 0.3, -0.1]), length_norm=4.0)
    _, whole, _ = run(given, config)
    _, masked, _ = run(given, config.model_copy(update={"is_cap": 5.0, "is_floor": 0.5}))
    assert masked[0] == 0
    assert masked[2] == 0
    assert whole[2] != 0 or whole[0] != 0  # a bound may cut one of them by itself
    assert torch.equal(masked[[1, 3, 4]], whole[[1, 3, 4]])


def test_the_kl_term_of_a_masked_token_remains():
    config = Algo(is_form="token_mis", kl_coef=0.5, kl="k2")
    _, gradient, _ = run(inputs(ref_logp=OLD - 0.4), config)
    assert gradient[2].item() == pytest.approx(0.5 * 0.4 / 5)  # of k2 = d^2 / 2, d = 0.4


def test_probability_zero_is_masked_and_nan_is_dropped():
    gap = torch.tensor([math.inf, 0.1, math.nan, 0.2, -math.inf], dtype=torch.float64)
    given = inputs(rollout_logp=OLD - gap)
    for form, dropped in (("icepop", 1), ("token_mis", 1), ("sequence_mis", 3)):
        _, gradient, metrics = run(given, Algo(is_form=form))
        assert gradient[[0, 2, 4]].tolist() == [0, 0, 0]
        assert gradient.isfinite().all()
        assert metrics["policy/nonfinite_tokens"] == dropped, form


@pytest.mark.parametrize("form", ["icepop", "token_mis"])
def test_a_token_mask_needs_no_old_logprobs(form):
    given = inputs()
    with_old = run(given, Algo(is_form=form))
    without = run(replace(given, old_logp=None), Algo(is_form=form))
    assert torch.equal(with_old[1], without[1])
    assert with_old[1].count_nonzero() < 5


def test_a_sequence_mask_asks_for_what_it_needs():
    config = Algo(is_form="sequence_mis")
    for missing in ({"old_logp": None}, {"sequence": None, "advantages": 1.0}):
        with pytest.raises(ValueError, match="is_form=sequence_mis needs the ratio of whole sequences"):
            prepare(inputs(**missing), config)
    one_step, rollout = Rl(minibatches=1), Rollout()
    assert Objective.of(Algo(), one_step, rollout, sampled_elsewhere=True).old_logprobs == "none"
    assert Objective.of(Algo(is_form="icepop"), one_step, rollout).old_logprobs == "none"
    assert Objective.of(config, one_step, rollout).old_logprobs == "actor"
    assert Objective.of(Algo(is_form="sequence_mis", is_weight="off"), one_step, rollout).old_logprobs == "none"


def test_a_chunk_of_the_tokens_keeps_the_weight_of_its_sequence():
    config = Algo(is_form="sequence_mis", is_cap=1.5)
    prepared = prepare(inputs(logp=None), config)
    parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
    whole = policy_loss(prepared.tokens(OLD), config)[0]
    chunks = sum(policy_loss(prepared.tokens(OLD[part], where=part), config)[0] for part in parts)
    assert chunks.item() == pytest.approx(whole.item(), rel=1e-14)


def test_the_limits_must_leave_room():
    with pytest.raises(ValidationError, match=r"algo\.is_floor=6 is not below algo\.is_cap=5"):
        Algo(is_form="icepop", is_floor=6)
