"""Compares every loss and aggregation with an independent reference on 1,000 random batches: value and gradient.

The tolerance is 1e-12 in fp64, and in fp32 1e-6 of the fp64 formulas for the same fp32 numbers. In fp64 every loss gets
every batch. In fp32 the four names of the clipped surrogate, which are one function, alternate. Rewards are binary,
few-valued, continuous or all equal; lengths may be 0; rows are padded with NaN, or packed; terms are on or off at
random.
"""

import math
import random
from dataclasses import dataclass, replace

import objective_reference as reference
import pytest
import torch

from pipeline.objectives import PolicyLossInputs, elastic_bounds, group_advantages, losses, policy_loss, prepare
from pipeline.settings import Algo

BATCHES = 1000
AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
SURROGATES = ("etr", "grpo", "dapo", "dr_grpo")
"""Four names of one function; a test below checks that."""
OTHERS = ("gspo", "cispo", "grpo_matched")
TOKEN_RULES = ("dc_grpo", "abc_grpo", "sapo")
"""Published relatives; each gets one aggregation of a batch, in turn."""
RESPONSE_RULES = ("adpo", "fac", "a2tgpo", "bapo", "codapo")
"""The same function again: what is theirs happens before the loss (test_neighbours.py)."""
LIMIT = 6
"""Greatest length of a response."""


@dataclass
class Case:
    samples: list[reference.Sample]
    options: reference.Options
    config: Algo
    packed: bool
    whole: bool
    """Call policy_loss alone; otherwise prepare() first, as the trainer does."""


def draw(seed: int) -> Case:
    rng = random.Random(seed)
    groups, size = rng.randint(1, 2), rng.randint(2, 4)
    config = Algo(
        alpha=rng.choice([0.0, 0.3, 2.0]),
        beta=rng.choice([0.0, 0.5, 1.0]),
        h=rng.choice(["linear", "sqrt", "tanh"]),
        k=rng.choice(["variance", "std", "none"]),
        eps_low=rng.choice([0.2, 0.4]),
        scale_min=rng.choice([0.25, 0.8]),
        scale_max=rng.choice([1.5, 4.0]),
        normalize=rng.choice(["std", "none", "loo"]),
        dual_clip=rng.choice([None, 3.0, 1.2]),
        kl_coef=rng.choice([0.0, 0.1]),
        kl=rng.choice(["k1", "k2", "k3"]),
        entropy_coef=rng.choice([0.0, 0.01]),
        is_cap=rng.choice([None, 2.0]),
        std_ddof=seed % 3 % 2,
        kl_clamp=(None, 0.2)[seed % 7 % 2],
    )
    kinds = {
        "binary": lambda: float(rng.random() < 0.5),
        "few": lambda: rng.choice([0.0, 0.1, 0.7, 1.0]),
        "continuous": rng.random,
        "equal": lambda: 0.1,
    }
    samples = []
    for _ in range(groups):
        kind = kinds[rng.choice(list(kinds))]
        values, variance = reference.advantages([kind() for _ in range(size)], config.normalize, config.std_ddof)
        for advantage in values:
            n = rng.randint(0, LIMIT)
            old = [-rng.expovariate(1.0) for _ in range(n)]
            spread = rng.choice([0.01, 0.3, 3.0, 30.0])
            logp = [x + rng.gauss(0, spread) for x in old]
            near = [[x + rng.gauss(0, 0.5) for x in logp] for _ in range(2)]
            low, high = reference.bounds(advantage, variance, config)
            entropy = [rng.random() for _ in range(n)]
            samples.append(reference.Sample(logp, old, advantage, low, high, near[0], near[1], entropy))
    options = reference.Options(
        dual_clip=config.dual_clip, kl_coef=config.kl_coef, kl=config.kl, entropy_coef=config.entropy_coef,
        is_cap=config.is_cap, kl_clamp=config.kl_clamp, length_norm=LIMIT,
    )  # fmt: skip
    return Case(samples, options, config, packed=seed % 2 == 0, whole=seed % 5 == 0)


def tensors(case: Case, dtype: torch.dtype) -> PolicyLossInputs:
    """Makes rows padded with NaN, or packed tokens."""
    samples = case.samples
    columns = {
        name: [getattr(s, key) for s in samples]
        for name, key in (("logp", "logp"), ("old_logp", "old"), ("ref_logp", "ref"), ("rollout_logp", "rollout"),
                          ("entropy", "entropy"))
    }  # fmt: skip
    per_sample = {
        name: torch.tensor([getattr(s, name) for s in samples], dtype=dtype) for name in ("eps_low", "eps_high")
    }
    per_sample["advantages"] = torch.tensor([s.advantage for s in samples], dtype=dtype)
    if case.packed:
        flat = {k: torch.tensor([x for row in rows for x in row], dtype=dtype) for k, rows in columns.items()}
        ids = torch.tensor([i for i, s in enumerate(samples) for _ in s.logp], dtype=torch.int64)
        per_sample = {k: v[:, None] for k, v in per_sample.items()}
        inputs = PolicyLossInputs(
            **flat, **per_sample, mask=torch.ones(len(ids)), sequence=ids,
            lengths=torch.tensor([len(s.logp) for s in samples]), length_norm=LIMIT,
        )  # fmt: skip
    else:
        pad = [math.nan] * LIMIT
        rows = {k: torch.tensor([(row + pad)[:LIMIT] for row in rows], dtype=dtype) for k, rows in columns.items()}
        mask = torch.tensor([[t < len(s.logp) for t in range(LIMIT)] for s in samples])
        inputs = PolicyLossInputs(**rows, **per_sample, mask=mask)
    return inputs


def rounded(samples: list[reference.Sample], inputs: PolicyLossInputs) -> list[reference.Sample]:
    """Rounds the samples to exactly the numbers that the tensors hold."""

    def row(values: list[float]) -> list[float]:
        return torch.tensor(values, dtype=inputs.old_logp.dtype).tolist()

    flat = [getattr(inputs, name).reshape(-1).tolist() for name in ("advantages", "eps_low", "eps_high")]
    return [
        reference.Sample(row(s.logp), row(s.old), a, low, high, row(s.ref), row(s.rollout), row(s.entropy))
        for s, a, low, high in zip(samples, *flat, strict=True)
    ]


def compare(case: Case, inputs: PolicyLossInputs, samples, loss: str, aggregate: str, relative: float) -> None:
    config = case.config.model_copy(update={"loss": loss, "aggregate": aggregate})
    want, size, by_logp, by_entropy = reference.loss_and_gradient(
        samples, replace(case.options, loss=loss, aggregate=aggregate)
    )
    logp = inputs.logp.detach().requires_grad_()
    entropy = inputs.entropy.detach().requires_grad_()
    inputs = replace(inputs, logp=logp, entropy=entropy)
    if case.whole:
        got = policy_loss(inputs, config)[0]
        assert got.dtype == logp.dtype
    else:
        got = policy_loss(prepare(replace(inputs, logp=None), config).tokens(logp, entropy), config, metrics=False)[0]
    got.backward()
    label = (loss, aggregate)
    assert abs(got.item() - want) <= relative * abs(want) + 1e-15 * size, label
    for grad, rows, on in ((logp.grad, by_logp, True), (entropy.grad, by_entropy, bool(config.entropy_coef))):
        if not on:
            assert grad is None or not grad.any()
            continue
        tiny = torch.finfo(grad.dtype).tiny  # below it a number has fewer digits
        flat = grad[inputs.mask.bool()].tolist()
        wanted = [x for row in rows for x in row]
        assert all(abs(a - b) <= relative * abs(b) + tiny for a, b in zip(flat, wanted, strict=True)), label
        assert not grad[~inputs.mask.bool()].any(), label


@pytest.mark.parametrize(
    ("dtype", "relative", "in_turn"),
    [
        pytest.param(torch.float64, 1e-12, False, id="fp64", marks=pytest.mark.slow),
        pytest.param(torch.float32, 1e-6, True, id="fp32", marks=pytest.mark.slow),
    ],
)
def test_every_loss_and_aggregation_on_random_batches(dtype, relative, in_turn):
    for seed in range(BATCHES):
        case = draw(seed)
        inputs = tensors(case, dtype)
        samples = rounded(case.samples, inputs)
        for loss in ((SURROGATES[seed // 8 % 4],) if in_turn else SURROGATES) + OTHERS:
            for aggregate in AGGREGATES:
                compare(case, inputs, samples, loss, aggregate, relative)
        for loss in TOKEN_RULES:
            compare(case, inputs, samples, loss, AGGREGATES[seed % 3], relative)


def test_every_registered_loss_is_compared():
    assert set(losses.names()) == {*SURROGATES, *OTHERS, *TOKEN_RULES, *RESPONSE_RULES}
    assert len({losses.get(name).function for name in SURROGATES}) == 1


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_advantages_and_bounds_on_random_groups(dtype, relative):
    rng = random.Random(1)
    for _ in range(BATCHES):
        config = draw(rng.randrange(10**6)).config
        values = [rng.choice([0.0, 1.0, 0.25, rng.uniform(-3, 3)]) for _ in range(rng.randint(2, 9))]
        rewards = torch.tensor([values], dtype=dtype)
        advantages, variance = group_advantages(rewards, config.normalize, std_ddof=config.std_ddof)
        low, high = elastic_bounds(advantages, variance, config)
        want, want_variance = reference.advantages(rewards[0].tolist(), config.normalize, config.std_ddof)
        largest = max(map(abs, values))
        assert variance.item() == pytest.approx(want_variance, rel=relative, abs=1e-15)
        for i, a in enumerate(want):
            # Subtracting the mean from a reward close to it leaves the rounding error of both.
            assert advantages[0, i].item() == pytest.approx(
                a, rel=relative, abs=1e-15 * largest / max(want_variance, 1e-9) ** 0.5
            )
            wanted = reference.bounds(advantages[0, i].item(), variance.item(), config)
            assert low[0, i].item() == pytest.approx(wanted[0], rel=relative)
            assert high[0, i].item() == pytest.approx(wanted[1], rel=relative)
