"""Metrics: their values, and that the sums of micro-batches and ranks equal those of the whole batch."""

import json
import math
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks

from pipeline.objectives import PolicyLossInputs, add_up, finalize, group_advantages, group_metrics, policy_loss
from pipeline.objectives.metrics.bins import Bins
from pipeline.objectives.metrics.token import KL3, LOG_RATIO
from pipeline.settings import Algo


def batch(rows: int = 8, columns: int = 40, seed: int = 0) -> PolicyLossInputs:
    g = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=g, dtype=torch.float64) * scale

    old = -normal(1.0).abs()
    return PolicyLossInputs(
        logp=old + normal(0.3), old_logp=old, advantages=torch.randn(rows, generator=g, dtype=torch.float64),
        mask=torch.rand(rows, columns, generator=g) > 0.3, eps_low=0.1 + 0.2 * torch.rand(rows, generator=g).double(),
        eps_high=0.5 * torch.rand(rows, generator=g).double(), ref_logp=old + normal(0.1),
        rollout_logp=old + normal(0.01), entropy=normal(1.0).abs(), pass_rate=torch.linspace(0, 1, rows).double(),
        denominator=200.0,
    )  # fmt: skip


CONFIG = Algo(kl_coef=0.1, entropy_coef=0.01, is_cap=1.01, dual_clip=1.3)


def test_token_metrics_equal_their_definitions():
    inputs = batch()
    loss, sums = policy_loss(inputs, CONFIG)
    got = sums.finalize()
    m = inputs.mask
    step = (inputs.logp - inputs.old_logp)[m]
    ratio, a = step.exp(), inputs.advantages[:, None].expand_as(m)[m]
    low, high = (e[:, None].expand_as(m)[m] for e in (inputs.eps_low, inputs.eps_high))
    d, gap = (inputs.logp - inputs.ref_logp)[m], (inputs.old_logp - inputs.rollout_logp)[m]
    cut_low, cut_high = (a < 0) & (ratio < 1 - low), (a > 0) & (ratio > 1 + high)
    static_low, static_high = (a < 0) & (ratio < 0.8), (a > 0) & (ratio > 1.28)
    want = {
        "clip/low": cut_low, "clip/high": cut_high, "clip/static_low": static_low, "clip/static_high": static_high,
        "clip/differs_from_static": (cut_low != static_low) | (cut_high != static_high),
        "clip/dual": (a < 0) & (ratio > 1.3),
        "policy/ratio_mean": ratio, "policy/kl_old_k1": -step, "policy/kl_old_k3": ratio - 1 - step,
        "policy/kl_ref_k1": d, "policy/kl_ref_k3": (-d).exp() + d - 1, "policy/entropy": inputs.entropy[m],
        "policy/live_tokens": a != 0, "gap/mean": gap.abs(), "gap/mean_exp": gap.abs().exp(),
        "gap/is_weight": gap.exp().clamp(max=1.01), "bounds/eps_low_token_mean": low, "bounds/eps_high_token_mean": high,
    }  # fmt: skip
    for name, values in want.items():
        assert got[name] == pytest.approx(values.double().mean().item(), rel=1e-12, abs=1e-15), name
    assert cut_low.any()
    assert cut_high.any()
    assert got["policy/ratio_min"] == pytest.approx(ratio.min().item())
    assert got["policy/ratio_max"] == pytest.approx(ratio.max().item())
    assert got["gap/max"] == pytest.approx(gap.abs().max().item())
    assert got["policy/loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert got["policy/nonfinite_tokens"] == got["policy/clamped_tokens"] == got["gap/nonfinite_tokens"] == 0
    rate = inputs.pass_rate[:, None].expand_as(m)[m]
    for i in range(5):
        inside = (rate >= i / 5) & ((rate < (i + 1) / 5) | (i == 4))
        for edge, cut in (("low", cut_low), ("high", cut_high)):
            name = f"clip/{edge}_pass_rate_{i / 5:.1f}-{(i + 1) / 5:.1f}"
            assert got[name] == pytest.approx(cut[inside].double().mean().item(), abs=1e-15), name
    assert set(want) - set(got) == set()
    assert sums["clip/low"] == got["clip/low"]  # read as a mapping, it gives the same numbers
    assert set(sums) == set(got)


def test_static_clip_metrics_equal_those_of_a_static_run():
    inputs = batch()
    etr = policy_loss(inputs, CONFIG)[1].finalize()
    grpo = policy_loss(replace(inputs, eps_low=0.2, eps_high=0.28), CONFIG)[1].finalize()
    assert (etr["clip/static_low"], etr["clip/static_high"]) == (grpo["clip/low"], grpo["clip/high"])
    assert grpo["clip/differs_from_static"] == 0 < etr["clip/differs_from_static"]


@pytest.mark.parametrize("name", ["etr", "gspo", "cispo"])
def test_micro_batches_add_up_to_the_whole(name):
    config = CONFIG.model_copy(update={"loss": name})
    inputs = batch()
    whole = policy_loss(inputs, config)[1].finalize()
    parts = []
    for rows in (slice(0, 1), slice(1, 5), slice(5, 8), slice(8, 8)):  # the last one is empty
        tensors = {k: v[rows] for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
        parts.append(policy_loss(replace(inputs, **tensors), config)[1])
    assert_same(add_up(parts).finalize(), whole)


def assert_same(got: dict, want: dict) -> None:
    assert set(got) == set(want)
    for name, value in want.items():
        if isinstance(value, dict):
            assert got[name] == value, name
        else:
            assert got[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name


def test_two_optimizer_steps_average_the_loss_and_add_the_tokens():
    parts = [policy_loss(batch(seed=seed), CONFIG) for seed in (0, 1)]
    got = finalize(parts[0][1] + parts[1][1], updates=2)
    assert got["policy/loss"] == pytest.approx(sum(x.item() for x, _ in parts) / 2, rel=1e-12)


def test_metrics_of_different_kinds_cannot_be_added():
    with pytest.raises(ValueError, match="different kinds"):
        policy_loss(batch(), CONFIG)[1] + policy_loss(replace(batch(), pass_rate=None), CONFIG)[1]


@pytest.mark.parametrize(("spread", "middle"), [(1e-4, 1.0), (0.01, 1.02), (0.5, 0.9)])
def test_medians_from_counts(spread, middle):
    g = torch.Generator().manual_seed(0)
    step = math.log(middle) + spread * torch.randn(20_001, generator=g, dtype=torch.float64)
    keep = torch.ones_like(step)
    ratio = math.exp(LOG_RATIO.median(LOG_RATIO.counts(step, keep).tolist()))
    assert ratio == pytest.approx(step.exp().median().item(), abs=max(0.01 * abs(middle - 1), 0.05 * spread))
    k3 = step.exp() - 1 - step
    assert KL3.median(KL3.counts(k3, keep).tolist()) == pytest.approx(k3.median().item(), rel=0.02)


@pytest.mark.parametrize("bins", [Bins(-2, 3, 10), Bins(1e-3, 1e3, 12, "log"), LOG_RATIO])
def test_bins_count_between_their_edges(bins):
    edges = torch.tensor(bins.edges(), dtype=torch.float64)
    assert torch.all(edges[1:] > edges[:-1])
    middles = (edges[1:] + edges[:-1]) / 2
    assert bins.counts(middles, torch.ones_like(middles)).tolist() == [1.0] * bins.count
    outside = torch.tensor([-1e30, 1e30, math.inf, -math.inf], dtype=torch.float64)
    counts = bins.counts(outside, torch.ones(4))
    assert (counts[0].item(), counts[-1].item()) == (2.0, 2.0)
    assert bins.median([0.0] * bins.count) is None


def test_group_metrics_equal_hand_computed_numbers():
    rewards = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0.25, 0.25, 0.25, 0.25]])
    lengths = torch.tensor([[1, 2, 3, 4], [5, 0, 7, 8], [1, 1, 1, 1], [2, 2, 2, 2]])
    config = Algo(alpha=0.5, beta=0.5, scale_min=0.6, scale_max=1.3)
    got = group_metrics(rewards, *group_advantages(rewards), lengths, config).finalize()
    # A = sqrt(3), -1 / sqrt(3); v = 3/4: s = 1.25 (1 + (1.732 - 1) / 2) = 1.7, and 1.25 (1 - 0.211) = 0.986
    common = 1.25 * (1 + 0.5 * (1 / math.sqrt(3) - 1))
    scales = [1.3] + [common] * 3 + [0.6] * 12  # 0.5 * 0.5 = 0.25 in groups without variance
    assert got["bounds/scale_mean"] == pytest.approx(sum(scales) / 16, rel=1e-5)
    assert (got["bounds/scale_min"], got["bounds/scale_max"]) == (0.6, 1.3)
    assert (got["bounds/scale_at_min"], got["bounds/scale_at_max"]) == (12 / 16, 1 / 16)
    live = (0.2 * (1.3 * 5 + common * 15)) / 20
    assert got["bounds/eps_low_live_mean"] == pytest.approx(live, rel=1e-5)
    assert got["bounds/eps_high_live_mean"] == pytest.approx(1.4 * live, rel=1e-5)
    assert got["reward/zero_variance_groups"] == 0.75
    assert (got["reward/all_right_groups"], got["reward/all_wrong_groups"]) == (0.25, 0.5)
    assert got["reward/mean"] == pytest.approx(6 / 16)
    assert (got["length/mean"], got["length/min"], got["length/max"], got["length/empty"]) == (42 / 16, 0, 8, 1 / 16)
    for name in ("scale", "eps_low", "eps_high"):
        histogram = got[f"hist/{name}"]
        assert sum(histogram["counts"]) == 16
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert histogram["counts"][-1] == 1  # the one at scale_max
    assert json.loads(json.dumps(got)) == got


RANK = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from test_metrics import CONFIG, assert_same, batch
from pipeline.objectives import policy_loss
dist.init_process_group("gloo")
inputs, rank = batch(), dist.get_rank()
whole = policy_loss(inputs, CONFIG)[1].finalize()
rows = slice(0, 3) if rank == 0 else slice(3, 8)
mine = {k: v[rows] for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
part = policy_loss(replace(inputs, **mine), CONFIG)[1]
before = part.finalize()
assert before["clip/low"] != whole["clip/low"]
assert_same(part.all_reduce().finalize(), whole)
assert part.finalize() == before
dist.destroy_process_group()
"""


def test_two_ranks_add_up_to_the_whole(tmp_path, request):
    """Each rank holds different rows. After two reductions both ranks have the numbers of all rows."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    run_ranks(2, script, request.path.parent)


@pytest.mark.parametrize("name", ["etr", "gspo", "cispo", "grpo_matched"])
def test_nothing_synchronises_with_the_device(name):
    """Meta tensors have no values, so reading one raises: the loss and its metrics read none."""
    inputs = batch()
    lengths = inputs.mask.sum(1).to("meta")
    moved = {k: v.to("meta") for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
    inputs = replace(inputs, **moved, lengths=lengths)
    config = CONFIG.model_copy(update={"loss": name, "aggregate": "seq-mean-token-mean"})
    loss, sums = policy_loss(replace(inputs, logp=inputs.logp.requires_grad_()), config)
    loss.backward()
    assert (sums + sums).sums.device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):
        sums.finalize()
