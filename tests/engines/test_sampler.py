"""Tokens from logits: the filters against a slow implementation of their definition, frequencies against the exact
distribution, and the random streams against the published generator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_patches.engines.native.sampler import BLOCK, CANDIDATES, filtered, inverse_cdf, sample, uniforms
from pipeline.rollout.interface import Sampling
from pipeline.rollout.streams import request_key

# The first outputs of SplitMix64 (Steele, Lea and Flood) for seed 1234567, as published with several implementations.
SPLITMIX_1234567 = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]


def kept_by_definition(logits: list[float], top_k: int, top_p: float) -> dict[int, float]:
    """Computes token -> probability after the filters, in Python and fp64: sort, keep k, then add until p is
    reached."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[:top_k] if top_k else order
    top = logits[order[0]]
    weights = [math.exp(logits[i] - top) for i in order]
    total, mass, kept = sum(weights), 0.0, {}
    for token, weight in zip(order, weights, strict=True):
        if mass >= top_p * total and kept:
            break
        kept[token] = weight
        mass += weight
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def test_uniforms_equal_the_published_generator():
    found = uniforms(torch.tensor([1234567]), len(SPLITMIX_1234567))[0]
    assert found.tolist() == [(value >> 16) * 2.0**-48 for value in SPLITMIX_1234567]


def test_uniforms_of_neighbouring_requests_are_independent():
    keys = [request_key(0, f"p{i}", j, 0) for i in range(500) for j in range(2)]
    u = uniforms(torch.tensor(keys), 200)
    counts = torch.histc(u.float(), bins=64, min=0, max=1).double()
    chi_square = float(((counts - u.numel() / 64) ** 2 / (u.numel() / 64)).sum())
    assert chi_square < 63 + 5 * math.sqrt(2 * 63)
    siblings = torch.corrcoef(torch.stack([u[0::2].flatten(), u[1::2].flatten()]))[0, 1]
    neighbours = torch.corrcoef(torch.stack([u[:, :-1].flatten(), u[:, 1:].flatten()]))[0, 1]
    assert abs(siblings) < 5 / math.sqrt(u.numel() / 2)
    assert abs(neighbours) < 5 / math.sqrt(u.numel())


def test_every_part_of_a_request_key_changes_the_stream():
    base = (0, "a", 0, 0)
    others = [(1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (0, "a1", 0, 0), (0, "", 0, 0)]
    keys = {request_key(*parts) for parts in [base, *others]}
    assert len(keys) == 1 + len(others)
    assert request_key(*base) == request_key(*base)


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=1, max_size=30),
    top_k=st.integers(0, 35),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
)
def test_filtered_set_is_exact_with_ties(logits, top_k, top_p):
    values = [x / 8 for x in logits]
    weights, order = filtered(torch.tensor([values]), top_k, top_p)
    kept = {int(token): float(w) for token, w in zip(order[0], weights[0], strict=True) if w > 0}
    expected = kept_by_definition(values, top_k, top_p)
    assert kept.keys() == expected.keys()
    total = sum(kept.values())
    for token, probability in expected.items():
        assert kept[token] / total == pytest.approx(probability, rel=1e-5)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (50, 1.0), (50, 0.3), (0, 0.999999), (CANDIDATES - 1, 1.0)])
@pytest.mark.parametrize("kind", ["spread", "flat", "ties"])
def test_long_rows_give_the_set_of_the_full_sort(kind, top_k, top_p):
    noise = torch.randn(3, 5 * CANDIDATES, generator=torch.Generator().manual_seed(1))
    logits = {"spread": 4 * noise, "flat": 1e-3 * noise, "ties": (2 * noise).round()}[kind]
    weights, order = filtered(logits, top_k, top_p)
    for row in range(3):
        kept = {int(token) for token, w in zip(order[row], weights[row], strict=True) if w > 0}
        assert kept == kept_by_definition(logits[row].tolist(), top_k, top_p).keys()


@pytest.mark.parametrize("vocabulary", [37, 4 * BLOCK + 5])
def test_inverse_cdf_never_chooses_weight_zero(vocabulary):
    weights = torch.zeros(6, vocabulary)
    allowed = torch.tensor([3, 17, vocabulary - 2])
    weights[:, allowed] = torch.tensor([0.25, 0.5, 0.25])
    u = torch.tensor([0.0, 0.25 - 1e-9, 0.25, 0.75 - 1e-9, 0.75, 1 - 2.0**-48], dtype=torch.float64)
    places, total = inverse_cdf(weights, u)
    assert places.tolist() == [allowed[i] for i in (0, 0, 1, 1, 2, 2)]
    assert total.tolist() == [1.0] * 6


CASES = {
    "plain": Sampling(max_new_tokens=1),
    "hot": Sampling(max_new_tokens=1, temperature=1.7),
    "top_k": Sampling(max_new_tokens=1, top_k=5),
    "top_p": Sampling(max_new_tokens=1, temperature=0.8, top_p=0.7),
    "both": Sampling(max_new_tokens=1, temperature=1.3, top_p=0.8, top_k=9),
}


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
@pytest.mark.parametrize("vocabulary", [40, 5 * CANDIDATES])
def test_frequencies_and_logps_are_those_of_the_exact_distribution(how, vocabulary):
    draws = 40_000 if vocabulary == 40 else 4_000
    logits = torch.full((vocabulary,), -30.0)
    spread = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(5))[:40]
    logits[spread] = 1.5 * torch.randn(40, generator=torch.Generator().manual_seed(2))
    keys = torch.tensor([request_key(3, "p", i, 0) for i in range(draws)])
    chosen = sample(logits.repeat(draws, 1), uniforms(keys, 1)[:, 0], how)
    expected = kept_by_definition((logits.double() / how.temperature).tolist(), how.top_k, how.top_p)
    expected = {token: p for token, p in expected.items() if p * draws >= 5}
    counts = torch.bincount(chosen.tokens, minlength=vocabulary)
    assert counts.sum() - sum(counts[token] for token in expected) <= 40  # the rest: tokens expected less than 5 times
    chi_square = sum((float(counts[token]) - p * draws) ** 2 / (p * draws) for token, p in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 4
    raw = logits.double().log_softmax(-1)
    for i in range(50):
        token = int(chosen.tokens[i])
        assert float(chosen.raw_logps[i]) == pytest.approx(float(raw[token]), abs=1e-5)
        if token in expected:
            assert float(chosen.logps[i]) == pytest.approx(math.log(expected[token]), abs=1e-5)


def test_greedy_is_a_distribution_on_one_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    chosen = sample(logits.clone(), torch.zeros(2, dtype=torch.float64), Sampling(max_new_tokens=1, temperature=0))
    assert chosen.tokens.tolist() == [1, 0]
    assert chosen.logps.tolist() == [0, 0]
    torch.testing.assert_close(chosen.raw_logps, logits.log_softmax(-1).amax(-1))


def test_at_temperature_one_both_logps_are_equal():
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    u = torch.linspace(0, 0.99, 8, dtype=torch.float64)
    chosen = sample(logits.clone(), u, Sampling(max_new_tokens=1))
    assert torch.equal(chosen.logps, chosen.raw_logps)
    torch.testing.assert_close(chosen.logps, logits.log_softmax(-1).gather(1, chosen.tokens[:, None])[:, 0])
