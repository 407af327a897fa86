"""The policy loss: hand-computed values, exactness without elasticity, and independence of the batch's layout."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.objectives import PolicyLossInputs, clip_bounds, denominator, group_advantages, losses, policy_loss
from pipeline.settings import Algo

ALL = tuple(losses.names())
AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def batch(rows: int = 6, columns: int = 10, dtype=torch.float64, seed: int = 0) -> PolicyLossInputs:
    """Makes random rows [B, T] with every optional tensor; the last row is an empty response."""
    g = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=g, dtype=torch.float64).mul(scale).to(dtype)

    old = -normal(1.0).abs()
    lengths = torch.randint(1, columns + 1, (rows,), generator=g)
    lengths[-1] = 0
    advantages = torch.randn(rows, generator=g, dtype=torch.float64).to(dtype)
    return PolicyLossInputs(
        logp=old + normal(0.3), old_logp=old, advantages=advantages, mask=torch.arange(columns) < lengths[:, None],
        eps_low=0.1 + 0.2 * torch.rand(rows, generator=g).to(dtype), eps_high=torch.rand(rows, generator=g).to(dtype),
        ref_logp=old + normal(0.1), rollout_logp=old + normal(0.1), entropy=normal(1.0).abs(),
        pass_rate=torch.rand(rows, generator=g), length_norm=columns,
    )  # fmt: skip


def run(inputs: PolicyLossInputs, config: Algo) -> tuple[torch.Tensor, torch.Tensor]:
    logp = inputs.logp.detach().requires_grad_()
    loss, _ = policy_loss(replace(inputs, logp=logp), config)
    loss.backward()
    return loss.detach(), logp.grad


FULL = Algo(kl_coef=0.1, entropy_coef=0.01, is_cap=2.0, dual_clip=3.0)


def test_the_clipped_loss_anchor():
    ratio = torch.tensor([0.5, 1.0, 1.5])
    inputs = PolicyLossInputs(
        logp=ratio.log(), old_logp=torch.zeros(3), advantages=torch.tensor([1.0, -1.0, 2.0]), mask=torch.ones(3),
        eps_low=0.2, eps_high=0.2,
    )  # fmt: skip
    loss, gradient = run(inputs, Algo(alpha=0, beta=0, eps_high=0.2))
    assert loss.item() == pytest.approx(-0.633333, abs=1e-6)
    assert gradient.tolist() == pytest.approx([-0.5 / 3, 1 / 3, 0.0], abs=1e-7)  # the third is cut at 1.2


def test_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likely():
    inputs = PolicyLossInputs(
        logp=torch.tensor([5.0, 5.0, 0.5]).log(), old_logp=torch.zeros(3), advantages=torch.tensor([-1.0, 1.0, -1.0]),
        mask=torch.ones(3),
    )  # fmt: skip
    loss, gradient = run(inputs, Algo(dual_clip=None))
    assert loss.item() == pytest.approx((5 - 1.28 + 0.8) / 3, abs=1e-6)
    assert gradient.tolist() == pytest.approx([5 / 3, 0, 0], abs=1e-6)
    loss, gradient = run(inputs, Algo(dual_clip=3.0))
    assert loss.item() == pytest.approx((3 - 1.28 + 0.8) / 3, abs=1e-6)
    assert not gradient.any()


def test_the_kl_clamp_bounds_a_token_that_the_reference_finds_far_likelier():
    # d = -20, 0, 0.5: k3 = exp(20) - 21 = 485165174.4, 0, exp(-0.5) - 0.5 = 0.106531; its slope is 1 - exp(-d).
    inputs = PolicyLossInputs(
        logp=torch.tensor([-21.0, -1.0, -0.5], dtype=torch.float64), old_logp=torch.full((3,), -1.0).double(),
        advantages=0.0, ref_logp=torch.full((3,), -1.0).double(),
    )  # fmt: skip
    loss, gradient = run(inputs, Algo(kl_coef=0.3))
    assert loss.item() == pytest.approx(0.1 * (485165174.409790 + 0.106531), rel=1e-12)
    assert gradient.tolist() == pytest.approx([0.1 * (1 - 485165195.409790), 0.0, 0.1 * 0.393469], rel=1e-6)
    loss, gradient = run(inputs, Algo(kl_coef=0.3, kl_clamp=10.0))
    assert loss.item() == pytest.approx(0.1 * 10.106531, abs=1e-7)
    assert gradient.tolist() == pytest.approx([0.0, 0.0, 0.1 * 0.393469], abs=1e-7)
    for kind, values in (("k1", [-10.0, 0.0, 0.5]), ("k2", [10.0, 0.0, 0.125])):
        loss, _ = run(inputs, Algo(kl_coef=0.3, kl=kind, kl_clamp=10.0))
        assert loss.item() == pytest.approx(0.1 * sum(values), abs=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 2])])
def test_gspo_averages_over_kept_tokens_only(value, lengths):
    # Log-ratios 0.3, NaN, 0.5 | 0.2, 0.4: the means are 0.4 (not 0.8 / 3) and 0.3. With advantage 1 and wide bounds a
    # token's loss is -exp(mean) and its gradient the same, each divided by the 5 response tokens; the dropped one is 0.
    log_ratio = torch.tensor([[0.3, value, 0.5], [0.2, 0.4, 0.0]], dtype=torch.float64)
    inputs = PolicyLossInputs(
        logp=log_ratio - 1, old_logp=torch.full((2, 3), -1.0).double(), advantages=1.0,
        mask=torch.tensor([[1, 1, 1], [1, 1, 0]]), eps_low=0.9, eps_high=9.0, lengths=lengths,
    )  # fmt: skip
    loss, gradient = run(inputs, Algo(loss="gspo"))
    first, second = math.exp(0.4) / 5, math.exp(0.3) / 5
    assert loss.item() == pytest.approx(-2 * first - 2 * second, rel=1e-14)
    want = [-first, 0.0, -first, -second, -second, 0.0]
    assert gradient.reshape(-1).tolist() == pytest.approx(want, rel=1e-14)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_elasticity_is_grpo_to_the_last_bit(aggregate, dtype):
    rewards = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
    advantages, variance = group_advantages(rewards.to(torch.promote_types(dtype, torch.float32)))
    inputs = replace(batch(dtype=dtype), advantages=advantages.reshape(-1))
    results = []
    for config in (Algo(loss="etr", alpha=0, beta=0), Algo(loss="grpo"), Algo(loss="grpo", alpha=0.7, beta=0.9)):
        low, high = clip_bounds(advantages, variance, torch.ones(2, 3), config)
        full = FULL.model_copy(update=config.model_dump(include={"loss", "alpha", "beta"}) | {"aggregate": aggregate})
        results.append(run(replace(inputs, eps_low=low.reshape(-1), eps_high=high.reshape(-1)), full))
    results.append(run(replace(inputs, eps_low=0.2, eps_high=0.28), full))  # bounds as plain numbers
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", ALL)
def test_micro_batches_and_packed_tokens_give_the_loss_of_the_whole_batch(name, aggregate):
    """The losses of micro-batches with global denominators must add up to the whole; so must those of packed tokens.

    Each token's loss depends on its own sequence at most, and its weight on global counts. Only the order of a sum in
    fp64 can differ.
    """
    config = FULL.model_copy(update={"loss": name, "aggregate": aggregate})
    inputs = batch()
    if name == "grpo_matched":  # its bounds are the mean of the batch, which must be known before the batch is split
        inputs = replace(inputs, eps_low=0.2, eps_high=0.3)
    whole, gradient = run(inputs, config)
    lengths = inputs.mask.sum(1)
    count = denominator(config, tokens=float(lengths.sum()), sequences=float((lengths > 0).sum()))

    parts = []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)):
        tensors = {k: v[rows] for k, v in vars(inputs).items() if isinstance(v, torch.Tensor)}
        parts.append(run(replace(inputs, **tensors, denominator=count), config))
    assert sum(x for x, _ in parts).item() == pytest.approx(whole.item(), rel=1e-14)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient, rtol=1e-14, atol=0)

    mask = inputs.mask
    flat = {k: getattr(inputs, k)[mask] for k in ("logp", "old_logp", "ref_logp", "rollout_logp", "entropy")}
    columns = {
        k: torch.as_tensor(getattr(inputs, k), dtype=torch.float64).expand(6)[:, None]
        for k in ("advantages", "eps_low", "eps_high")
    }
    packed = replace(
        inputs, **flat, **columns, mask=torch.ones(int(mask.sum())), sequence=mask.nonzero()[:, 0], lengths=lengths,
        pass_rate=None, denominator=count,
    )  # fmt: skip
    loss, packed_gradient = run(packed, config)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-14)
    torch.testing.assert_close(packed_gradient, gradient[mask], rtol=1e-13, atol=0)


@pytest.mark.parametrize(("name", "static"), [("etr", (0.2, 0.28)), ("gspo", (3e-4, 4e-4)), ("cispo", (0.2, 5.0))])
def test_without_bounds_the_loss_uses_its_static_ones(name, static):
    inputs = replace(batch(), eps_low=None, eps_high=None)
    want = run(replace(inputs, eps_low=static[0], eps_high=static[1]), Algo(loss=name))
    assert torch.equal(run(inputs, Algo(loss=name))[0], want[0])
    assert torch.equal(policy_loss(vars(inputs), {"loss": name})[0], want[0])


def test_inputs_may_be_a_mapping_or_any_object_and_fields_may_be_left_out():
    fields = {"logp": torch.tensor([0.5, 1.0, 1.5]).log(), "old_logp": torch.zeros(3)}
    fields["advantages"] = torch.tensor([1.0, -1.0, 2.0])  # no mask: every token counts; no bounds: static ones
    settings = {"eps_low": 0.2, "eps_high": 0.2}
    for given in (fields, SimpleNamespace(**fields), PolicyLossInputs(**fields)):
        for config in (settings, SimpleNamespace(**settings), Algo(**settings)):
            assert policy_loss(given, config)[0].item() == pytest.approx(-0.633333, abs=1e-6)
        assert policy_loss(given)[0].item() == pytest.approx((-0.5 + 1 - 2.56) / 3, abs=1e-6)  # eps_high 0.28
    with pytest.raises(TypeError, match="advantage"):
        policy_loss(fields | {"advantage": 1.0})


@pytest.mark.parametrize("name", ALL)
def test_numbers_by_sequence_equal_numbers_by_token(name):
    config = FULL.model_copy(update={"loss": name})
    inputs = batch()
    want = run(inputs, config)
    for shape in ((6, 1), (6, 10)):
        wide = {k: getattr(inputs, k)[:, None].expand(shape) for k in ("advantages", "eps_low", "eps_high")}
        got = run(replace(inputs, **wide), config)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


def test_the_matched_control_is_grpo_at_the_mean_bound():
    inputs = batch()
    live = inputs.mask & (inputs.advantages != 0)[:, None]
    low, high = (
        float((e[:, None] * live).sum() / live.sum()) for e in (inputs.eps_low.double(), inputs.eps_high.double())
    )
    matched = run(inputs, Algo(loss="grpo_matched"))
    static = run(replace(inputs, eps_low=low, eps_high=high), Algo(loss="grpo"))
    assert matched[0].item() == pytest.approx(static[0].item(), rel=1e-14)
    assert matched[0].item() != pytest.approx(run(inputs, Algo(loss="etr"))[0].item(), rel=1e-6)
    # Bounds that are the mean already do not change, for any part of the batch.
    again = run(replace(inputs, eps_low=low, eps_high=high), Algo(loss="grpo_matched"))
    assert torch.equal(again[0], static[0])


def test_importance_weights_follow_the_setting():
    inputs = batch()
    plain, _ = run(inputs, Algo())
    for config in (Algo(is_weight="off", is_cap=2.0), Algo(is_weight="auto", is_cap=None)):
        assert torch.equal(run(inputs, config)[0], plain)
    on, _ = run(inputs, Algo(is_weight="on"))
    assert torch.equal(on, run(inputs, Algo(is_weight="on", is_cap=2.0))[0])
    assert on != plain
    assert torch.equal(run(replace(inputs, rollout_logp=inputs.old_logp), Algo(is_weight="on"))[0], plain)


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        ({"ref_logp": None}, Algo(kl_coef=0.1), "ref_logp"),
        ({"entropy": None}, Algo(entropy_coef=0.1), "entropy"),
        ({"rollout_logp": None}, Algo(is_weight="on"), "rollout_logp"),
        ({"lengths": torch.zeros(5)}, Algo(), "lengths"),
        ({"advantages": torch.zeros(5)}, Algo(), "advantages"),
        ({"old_logp": torch.zeros(6, 9)}, Algo(), "old_logp"),
        ({"logp": None}, Algo(), "logp"),
    ],
)
def test_an_error_names_the_input_that_is_missing_or_does_not_fit(change, config, says):
    with pytest.raises(ValueError, match=says):
        policy_loss(replace(batch(), **change), config)


@pytest.mark.parametrize("config", [Algo(aggregate="seq-mean-token-mean"), Algo(loss="gspo")])
def test_packed_tokens_must_say_which_sequence_they_belong_to(config):
    flat = PolicyLossInputs(logp=torch.zeros(4), old_logp=torch.zeros(4), advantages=torch.ones(4), mask=torch.ones(4))
    with pytest.raises(ValueError, match="sequence"):
        policy_loss(flat, config)


def test_only_gspo_needs_whole_sequences():
    assert {name: losses.get(name).separable for name in ALL} == {name: name != "gspo" for name in ALL}
