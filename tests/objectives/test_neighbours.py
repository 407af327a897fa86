"""Published relatives of ETR and its one-sided variants: hand-worked numbers of each rule, and gradients in fp64."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.objectives import (
    FAMILY,
    PolicyLossInputs,
    add_up,
    clip_bounds,
    counterfactual_metrics,
    elastic_bounds,
    family_bounds,
    group_advantages,
    policy_loss,
    prepare,
)
from pipeline.objectives.losses.bapo import bapo_bounds
from pipeline.objectives.losses.codapo import codapo_weight
from pipeline.settings import Algo

REWARDS = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]]).double()
RATE = REWARDS.mean(1)  # 1/8, 1/2, 7/8
LENGTHS = torch.ones(3, 8)


def bounds(**settings) -> tuple[torch.Tensor, torch.Tensor]:
    config = Algo(eps_low=0.2, eps_high=0.2, **settings)
    return clip_bounds(*group_advantages(REWARDS), LENGTHS, config, RATE)


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_one_sided_region_is_elastic_there_and_static_elsewhere(side):
    one, other = bounds(elastic_side=side, alpha=0.5, beta=0.5), bounds(alpha=0.5, beta=0.5)
    chosen = (REWARDS == 1) if side == "positive" else (REWARDS == 0)
    for mine, both in zip(one, other, strict=True):
        assert torch.equal(mine, torch.where(chosen, both, 0.2))
        assert (both != 0.2).all()


def test_shrink_and_stretch_are_limits_of_the_scale():
    # The worked table of docs: s is 1.708946 and 0.645921 at 1 of 8, and 1.5 at 4 of 8.
    shrink, stretch = bounds(alpha=0.5, beta=0.5, scale_max=1.0)[0], bounds(alpha=0.5, beta=0.5, scale_min=1.0)[0]
    assert shrink[0, :2].tolist() == pytest.approx([0.2, 0.129184], abs=1e-6)
    assert stretch[0, :2].tolist() == pytest.approx([0.341789, 0.2], abs=1e-6)
    assert (shrink[1, 0].item(), stretch[1, 0].item()) == pytest.approx((0.2, 0.3))


def test_micro_alone_favours_the_middle_by_the_mean_of_the_advantages():
    # E|A| = 2 sqrt(p (1 - p)): 0.661438 at 1 of 8, 1 at 4 of 8. The mean scale is 1 + alpha (E|A| - 1).
    low, _ = bounds(alpha=0.5, beta=0.0)
    assert low.mean(1).tolist() == pytest.approx([0.2 * (1 + 0.5 * (0.661438 - 1)), 0.2, 0.2 * 0.830719], abs=1e-6)


def test_adpo_raises_the_upper_bound_of_groups_that_rarely_succeed():
    # (0.8 - s) / 0.5: 1.35 -> 1, 0.6, -0.15 -> 0
    low, high = bounds(loss="adpo")
    assert high[:, 0].tolist() == pytest.approx([0.3, 0.26, 0.2])
    assert set(low.flatten().tolist()) == {0.2}


def test_fac_raises_the_upper_bound_where_rewards_are_high_and_steady():
    # std: 0.330719, 0.5, 0.330719; mean / std: 0.377964, 1, 2.645751; tanh: 0.360929, 0.761594, 0.989977
    low, high = bounds(loss="fac")
    assert high[:, 0].tolist() == pytest.approx([0.272186, 0.352319, 0.397995], abs=2e-6)
    assert set(low.flatten().tolist()) == {0.2}


def test_a2tgpo_scales_both_bounds_by_the_advantage():
    # At 4 of 8, A = 1 and -1; 2 sigmoid(1) - 1 = 0.462117; times 0.3: 0.138635
    for eps in bounds(loss="a2tgpo"):
        assert eps[1, [0, 7]].tolist() == pytest.approx([0.2 * 1.138635, 0.2 * 0.861365], abs=1e-6)


def test_rules_of_groups_need_their_pass_rates():
    advantages, variance = group_advantages(REWARDS)
    with pytest.raises(ValueError, match="adpo need `pass_rate`"):
        clip_bounds(advantages, variance, LENGTHS, Algo(loss="adpo"))


def loss_and_slope(config: Algo, ratio: list[float], advantages: list[float], old: float = -1.0):
    old_logp = torch.full((len(ratio),), old).double()
    logp = (old_logp + torch.tensor(ratio).double().log()).requires_grad_()
    inputs = PolicyLossInputs(
        logp=logp, old_logp=old_logp, advantages=torch.tensor(advantages).double(), eps_low=0.2, eps_high=0.2, denominator=1.0
    )  # fmt: skip
    loss, metrics = policy_loss(inputs, config)
    loss.backward()
    return loss.item(), logp.grad.tolist(), metrics


def test_dc_grpo_lets_rare_good_tokens_rise_and_frequent_bad_ones_fall():
    # A = 1, pi = 0.1: delta = sigmoid(1) 0.9^1.8 = 0.731059 * 0.827254 = 0.604771; upper bound 1.2 + 0.15 delta = 1.290716.
    config, old = Algo(loss="dc_grpo"), math.log(0.1)
    loss, slope, metrics = loss_and_slope(config, [1.29, 1.3], [1.0, 1.0], old)
    assert loss == pytest.approx(-1.29 - 1.290716, abs=1e-6)
    assert slope == pytest.approx([-1.29, 0.0])
    assert metrics["clip/high"] == 0.5
    # A = -1, pi = 0.9: the lower bound is 0.8 - 0.090716 = 0.709284.
    loss, slope, _ = loss_and_slope(config, [0.71, 0.7], [-1.0, -1.0], math.log(0.9))
    assert loss == pytest.approx(0.71 + 0.709284, abs=1e-6)
    assert slope == pytest.approx([0.71, 0.0])


def test_abc_grpo_clips_in_every_quadrant():
    config = Algo(loss="abc_grpo", abc_grpo_eps_low=0.3, abc_grpo_eps_high=0.4)
    # A > 0: 0.7 .. 1.2; A < 0: 0.8 .. 1.4
    ratio, advantages = [0.6, 0.75, 1.3, 0.75, 1.3, 1.5], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    loss, slope, metrics = loss_and_slope(config, ratio, advantages)
    assert loss == pytest.approx(-0.7 - 0.75 - 1.2 + 0.8 + 1.3 + 1.4)
    assert slope == pytest.approx([0, -0.75, 0, 0, 1.3, 0])
    assert (metrics["clip/low"], metrics["clip/high"]) == pytest.approx((2 / 6, 2 / 6))


def test_sapo_is_the_policy_gradient_at_one_and_fades_on_either_side():
    # sigmoid(0) = 1/2: loss -2 / tau. At ratio 2, tau 1: g = 0.731059, slope -4 g (1 - g) * 2 = -1.572895.
    config = Algo(loss="sapo")
    loss, slope, metrics = loss_and_slope(config, [1.0, 2.0], [1.0, 1.0])
    assert loss == pytest.approx(-2 - 4 * 0.731059, abs=1e-5)
    assert slope == pytest.approx([-1.0, -1.572895], abs=1e-5)
    loss, slope, _ = loss_and_slope(config, [1.0, 2.0], [-1.0, -1.0])
    # tau 1.05: g = 0.740775; 4 g (1 - g) * 2 = 1.536222
    assert loss == pytest.approx(4 / 1.05 * (0.5 + 0.740775), abs=1e-5)
    assert slope == pytest.approx([1.0, 1.536222], abs=1e-5)
    assert metrics["clip/low"] == metrics["clip/high"] == 0


def test_bapo_moves_the_lower_bound_first_and_then_the_upper_one():
    config = Algo(loss="bapo", eps_low=0.4, eps_high=0.2)

    def search(ratio: list[float], advantages: list[float]) -> tuple[float, float]:
        return bapo_bounds(torch.tensor(ratio).double(), torch.tensor(advantages).double(), config)

    assert search([1.0, 1.0], [1.0, -1.0]) == (0.4, 0.2)  # half is enough
    assert search([1.0, 1.0], [1.0, -2.0]) == (0.1, 2.0)  # never enough: both limits
    # Good: min(2, 1 + high); bad: 1.5. Enough from 1 + high = 1.5 on, six steps of 0.05.
    assert search([2.0, 1.0], [1.0, -1.5]) == pytest.approx((0.1, 0.5))
    assert search([], []) == (0.4, 0.2)


def test_codapo_weighs_the_middle_and_the_confident():
    weight = codapo_weight(
        torch.tensor([0.5, 0.5, 0.25, 1.0]).double(), torch.tensor([1.0, 0.4, 0.4, 1.0]).double(), Algo()
    )
    assert weight.tolist() == pytest.approx([1.1, 0.5, 0.4 * 0.75 + 0.1, 0.1])


TOKEN_COUNT = 24


def tokens(seed: int = 0) -> tuple[PolicyLossInputs, torch.Tensor]:
    """One token of each response of REWARDS, and the bounds of the family for it."""
    g = torch.Generator().manual_seed(seed)
    advantages, variance = group_advantages(REWARDS)
    old = -torch.rand(TOKEN_COUNT, generator=g).double() * 2
    inputs = PolicyLossInputs(
        logp=old + 0.3 * torch.randn(TOKEN_COUNT, generator=g).double(), old_logp=old, advantages=advantages.reshape(-1),
        pass_rate=RATE.repeat_interleave(8), denominator=float(TOKEN_COUNT),
    )  # fmt: skip
    return inputs, family_bounds(advantages, variance, LENGTHS, Algo(), RATE)


def measure(inputs: PolicyLossInputs, config: Algo, family: torch.Tensor):
    x = prepare(inputs, config).tokens(inputs.logp)
    return policy_loss(x, config)[1] + counterfactual_metrics(x, config, family)


def test_a_counterfactual_bound_cuts_what_a_run_with_it_cuts():
    inputs, family = tokens()
    got = measure(inputs, Algo(), family).finalize()
    for i, name in enumerate(FAMILY):
        config = Algo(**FAMILY[name])
        own = replace(inputs, eps_low=family[i, 0].double(), eps_high=family[i, 1].double())
        logp = inputs.logp.clone().requires_grad_()
        loss, metrics = policy_loss(replace(own, logp=logp), config)
        loss.backward()
        cut = metrics["clip/low"] + metrics["clip/high"]
        assert got[f"counterfactual/{name}_cut_positive"] + got[f"counterfactual/{name}_cut_negative"] == pytest.approx(
            cut
        )
        # The mass that it removes is what is missing in the gradient by log-prob.
        mass = (inputs.logp - inputs.old_logp).exp() * inputs.advantages.abs() / TOKEN_COUNT
        missing = torch.where(logp.grad == 0, mass, 0.0)
        for sign, chosen in (("positive", inputs.advantages > 0), ("negative", inputs.advantages < 0)):
            share = (missing[chosen].sum() / mass.sum()).item()
            assert got[f"counterfactual/{name}_mass_{sign}"] == pytest.approx(share, rel=1e-12), name
        for label, group in (("0.0-0.2", slice(0, 8)), ("0.4-0.6", slice(8, 16)), ("0.8-1.0", slice(16, 24))):
            share = (missing[group].sum() / mass[group].sum()).item()
            assert got[f"counterfactual/{name}_mass_pass_rate_{label}"] == pytest.approx(share, rel=1e-12), name
    assert len({got[f"counterfactual/{name}_mass_positive"] for name in FAMILY}) > 3
    assert len([name for name in got if name.startswith("counterfactual/")]) == len(FAMILY) * 7  # three of five bins


def test_counterfactual_metrics_add_up_over_micro_batches_and_need_no_device_value():
    inputs, family = tokens()
    whole = measure(inputs, Algo(), family).finalize()
    parts = []
    for at in (slice(0, 5), slice(5, 24), slice(24, 24)):
        mine = {k: v[at] for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
        parts.append(measure(replace(inputs, **mine), Algo(), family[:, :, at]))
    found = add_up(parts).finalize()
    assert set(found) == set(whole)
    assert all(
        found[name] == pytest.approx(whole[name], rel=1e-12, abs=1e-15)
        for name in whole
        if "/" in name and "hist" not in name
    )
    moved = {k: v.to("meta") for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
    assert measure(replace(inputs, **moved), Algo(), family.to("meta")).sums.device.type == "meta"


def test_the_family_is_built_around_the_run():
    """A static run has alpha = beta = 0: ETR's bounds are then those of its defaults. An elastic run's are its own."""
    advantages, variance = group_advantages(REWARDS)
    at = list(FAMILY).index("etr")
    for config, like in (
        (Algo(loss="grpo", alpha=0, beta=0, eps_high=0.2), Algo(eps_high=0.2)),
        (Algo(alpha=0.5, elastic_side="positive"), Algo(alpha=0.5, elastic_side="positive")),
    ):
        low, high = elastic_bounds(advantages, variance, like)
        got = family_bounds(advantages, variance, LENGTHS, config, RATE)[at]
        torch.testing.assert_close(got, torch.stack([low.reshape(-1), high.reshape(-1)]).float(), rtol=0, atol=0)
