"""Elastic bounds: the worked table, every limit, and exactness if elasticity is off."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.objectives import bound_scale, clip_bounds, elastic_bounds, group_advantages
from pipeline.settings import Algo

TABLE = Algo(alpha=0.5, beta=0.5, eps_low=0.2, eps_high=0.2)
BINARY = torch.tensor([[1.0] * right + [0.0] * (8 - right) for right in (0, 1, 4, 7, 8)], dtype=torch.float64)


def worked() -> tuple[torch.Tensor, torch.Tensor]:
    """Computes advantages and variance of the table, which leaves out the 1e-6 added to the standard deviation."""
    _, variance = group_advantages(BINARY)
    std = variance.sqrt()[:, None]
    return torch.where(std > 0, (BINARY - BINARY.mean(-1, keepdim=True)) / std.clamp(min=1e-9), 0.0), variance


@pytest.mark.parametrize(
    ("right", "s_right", "s_wrong", "eps_right", "eps_wrong"),
    [
        (1, 1.708946, 0.645921, 0.341789, 0.129184),
        (4, 1.5, 1.5, 0.3, 0.3),
        (7, 0.645921, 1.708946, 0.129184, 0.341789),
        (0, None, 0.25, None, 0.05),
        (8, 0.25, None, 0.05, None),
    ],
)
def test_the_worked_table(right, s_right, s_wrong, eps_right, eps_wrong):
    advantages, variance = worked()
    row = {0: 0, 1: 1, 4: 2, 7: 3, 8: 4}[right]
    s = bound_scale(advantages, variance, TABLE)[row]
    low, high = (x[row] for x in elastic_bounds(advantages, variance, TABLE))
    for at, want_s, want_eps in ((0, s_right, eps_right), (-1, s_wrong, eps_wrong)):
        if want_s is not None:
            assert s[at].item() == pytest.approx(want_s, abs=5e-7)
            assert low[at].item() == high[at].item() == pytest.approx(want_eps, abs=5e-7)


def test_the_default_is_asymmetric():
    advantages, variance = worked()
    low, high = elastic_bounds(advantages, variance)
    torch.testing.assert_close(high / low, torch.full_like(low, 1.4), rtol=1e-12, atol=0)


def test_scale_limits_and_the_limit_of_eps_low_hold():
    # A rare success at alpha 4: s = (1 + 4 * 1.65) * 0.97 would be 7.3.
    advantages, variance = worked()
    wide = TABLE.model_copy(update={"alpha": 4.0})
    s = bound_scale(advantages, variance, wide)
    assert s.max().item() == 4.0
    assert s.min().item() == 0.25  # the common failure: 1 + 4 * (0.378 - 1) is negative
    tight = wide.model_copy(update={"scale_min": 0.9, "scale_max": 1.1, "alpha": 1.0})
    s = bound_scale(advantages, variance, tight)
    assert (s.min().item(), s.max().item()) == (0.9, 1.1)
    low, high = elastic_bounds(advantages, variance, wide.model_copy(update={"eps_low": 0.5, "eps_high": 0.5}))
    assert low.max().item() == 0.9
    assert high.max().item() == 2.0


@pytest.mark.parametrize(("h", "at_four"), [("linear", 4.0), ("sqrt", 2.0), ("tanh", 0.9993292997390670)])
def test_micro_forms(h, at_four):
    config = TABLE.model_copy(update={"h": h, "beta": 0.0})
    one = {"linear": 1.0, "sqrt": 1.0, "tanh": 0.7615941559557649}[h]
    s = bound_scale(torch.tensor([[4.0, -4.0, 1.0]], dtype=torch.float64), torch.zeros(1), config)
    assert s[0].tolist() == pytest.approx([1 + 0.5 * (at_four - one)] * 2 + [1.0], abs=1e-14)


@pytest.mark.parametrize(("k", "macro"), [("variance", 0.75), ("std", 1.0), ("none", 1.0)])
def test_macro_forms(k, macro):
    config = TABLE.model_copy(update={"k": k, "alpha": 0.0})
    variance = torch.tensor([0.0625], dtype=torch.float64)  # v = 1/4
    assert bound_scale(torch.ones(1, 2), variance, config).tolist() == [[macro, macro]]


def test_the_reward_range_sets_the_greatest_variance():
    config = TABLE.model_copy(update={"alpha": 0.0, "reward_min": -1.0, "reward_max": 1.0})
    rewards = torch.tensor([[1.0, -1.0], [1.0, 0.0]])
    assert bound_scale(*group_advantages(rewards), config)[:, 0].tolist() == [1.5, 0.75]
    wider = torch.tensor([[9.0, -9.0]])  # beyond the range: v stays 1
    assert bound_scale(*group_advantages(wider), config)[0, 0].item() == 1.5


@pytest.mark.parametrize("loss", ["etr", "gspo", "cispo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_elasticity_the_bounds_are_static_to_the_last_bit(loss, dtype):
    rewards = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    advantages, variance = group_advantages(rewards)
    off = Algo(loss=loss, alpha=0.0, beta=0.0, eps_low=0.95, eps_high=0.28)
    base = {"etr": (0.95, 0.28), "gspo": (off.gspo_eps_low, off.gspo_eps_high), "cispo": (0.95, 5.0)}[loss]
    for h in ("linear", "sqrt", "tanh"):
        config = off.model_copy(update={"h": h})
        for eps, want in zip(elastic_bounds(advantages, variance, config), base, strict=True):
            assert torch.equal(eps, torch.full_like(advantages, want))


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_static_losses_ignore_elasticity(loss):
    low, high = elastic_bounds(*worked(), Algo(loss=loss, alpha=2.0, beta=1.0))
    assert set(low.flatten().tolist()) == {0.2}
    assert set(high.flatten().tolist()) == {0.28}


def test_variance_by_group_by_column_or_by_response():
    advantages, variance = worked()
    want = elastic_bounds(advantages, variance, TABLE)
    for given in (variance[:, None], variance[:, None].expand_as(advantages).contiguous()):
        assert all(map(torch.equal, elastic_bounds(advantages, given, TABLE), want))
    flat = elastic_bounds(advantages.reshape(-1), variance.repeat_interleave(8), TABLE)
    assert torch.equal(flat[0], want[0].reshape(-1))
    with pytest.raises(ValueError, match="variance"):
        elastic_bounds(advantages, variance[:3], TABLE)


def test_the_matched_control_gets_the_mean_over_live_tokens():
    advantages, variance = worked()
    lengths = torch.arange(40).reshape(5, 8)
    config = TABLE.model_copy(update={"loss": "grpo_matched"})
    low, high = clip_bounds(advantages, variance, lengths, config)
    etr_low, _ = elastic_bounds(advantages, variance, TABLE)
    live = lengths.double().clone()
    live[0] = live[4] = 0  # all wrong, all right
    mean = (etr_low * live).sum() / live.sum()
    assert low.unique().numel() == high.unique().numel() == 1
    assert low[0, 0].item() == pytest.approx(mean.item(), rel=1e-15)
    # Every other loss gets the elastic bounds. Without a live token there is no mean.
    assert torch.equal(clip_bounds(advantages, variance, lengths, TABLE)[0], etr_low)
    dead = clip_bounds(torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2), config)
    assert torch.isfinite(dead[0]).all()


@pytest.mark.parametrize(
    ("alpha", "beta", "narrower"), [(0.5, 0.0, True), (0.0, 0.5, False)], ids=["alpha alone", "beta alone"]
)
def test_each_setting_needs_its_own_control(alpha, beta, narrower):
    # E|A| < 1 for std advantages, so alpha alone narrows the mean; v > 1/2 for most pass rates, so beta alone widens
    # it.
    config = Algo(loss="grpo_matched", alpha=alpha, beta=beta, eps_low=0.2)
    low, _ = clip_bounds(*worked(), torch.ones(5, 8), config)
    assert (low[0, 0].item() < 0.2) is narrower


def test_config_may_be_a_dictionary_an_object_or_nothing():
    advantages, variance = worked()
    want = elastic_bounds(advantages, variance, TABLE)
    settings = {"alpha": 0.5, "beta": 0.5, "eps_low": 0.2, "eps_high": 0.2}
    for config in (settings, SimpleNamespace(**settings)):
        assert all(map(torch.equal, elastic_bounds(advantages, variance, config), want))
    assert torch.equal(elastic_bounds(advantages, variance)[0], elastic_bounds(advantages, variance, Algo())[0])
    with pytest.raises(ValueError, match="apha"):
        elastic_bounds(advantages, variance, {"apha": 0.5})
