"""From logits to tokens: temperature, top-k, top-p, and one uniform number a token from a counter-based stream.

Everything here is fp32 (sums in fp64). Tensor-parallel ranks sample a part of the rows each.
"""

from dataclasses import dataclass

import torch

from pipeline.rollout.interface import Sampling

GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, odd: the counter's stride in SplitMix64 (Steele et al. 2014)
MIX_1, MIX_2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # its finaliser's multipliers, as signed 64-bit numbers
UNIFORM_BITS = 48  # few enough that u * total stays below total after rounding to fp64
CANDIDATES = 1024  # tokens that the filters look at first: top-p sets are rarely larger
BLOCK = 128  # vocabulary entries of one block of the two-level inverse CDF


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers 0..count-1 of each stream: int64 [R] -> fp64 [R, count] in [0, 1). SplitMix64, with the key as seed."""
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    z = keys[:, None] + counter * GOLDEN
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    z = z ^ _shift(z, 31)
    return _shift(z, 64 - UNIFORM_BITS).double() * 2.0**-UNIFORM_BITS


@dataclass(frozen=True)
class Sampled:
    """What one step chose for R rows."""

    tokens: torch.Tensor
    """int64 [R]"""
    logps: torch.Tensor
    """fp32 [R], under the distribution that was sampled from."""
    raw_logps: torch.Tensor
    """fp32 [R], under softmax(logits)."""


def sample(logits: torch.Tensor, u: torch.Tensor, how: Sampling) -> Sampled:
    """Draw one token for each row: logits fp32 [R, V] (real vocabulary only), u fp64 [R].

    Order of the filters as in transformers: temperature, then top-k, then top-p of what is left. Greedy (temperature 0)
    is a distribution on one token, so its log-prob is 0. `logits` is used up: another tensor of its size would cost as much
    as the exponentials.
    """
    if how.temperature == 0:
        tokens = logits.argmax(-1)
        raw = _take(logits, tokens) - logits.logsumexp(-1)
        return Sampled(tokens, torch.zeros_like(raw), raw)
    scaled = logits if how.temperature == 1 else logits / how.temperature
    if how.top_k or how.top_p < 1:
        weights, order = filtered(scaled, how.top_k, how.top_p)
        place, total = inverse_cdf(weights, u)
        tokens = _take(order, place)
        logps = (_take(weights, place).double().log() - total.log()).float()
    else:
        weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
        tokens, total = inverse_cdf(weights, u)
        logps = (_take(weights, tokens).double().log() - total.log()).float()
        if how.temperature == 1:
            return Sampled(tokens, logps, logps)
    return Sampled(tokens, logps, _take(logits, tokens) - logits.logsumexp(-1))


def filtered(logits: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept tokens, most probable first: unnormalised weights fp32 [R, K] (0 = dropped) and their token ids [R, K].

    top_k keeps exactly k tokens; top_p the smallest set of the most probable whose mass reaches p. Ties go to the lower
    token id. Long rows are not sorted whole: the kept tokens are looked for among the largest few, and the full sort is
    made only if a row's set reaches the last of them.
    """
    if logits.shape[1] > 4 * CANDIDATES and top_k < CANDIDATES:
        some = logits.topk(CANDIDATES, dim=-1).indices.sort(dim=-1).values  # by id, so that the sort below breaks ties
        values, places = logits.gather(-1, some).sort(dim=-1, descending=True, stable=True)
        total = (logits - values[:, :1]).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        weights = _cut(values, top_k, top_p, total)
        smallest_kept = (values[:, : weights.shape[1]]).masked_fill(weights == 0, torch.inf).amin(-1)
        if bool((smallest_kept > values[:, -1]).all()):
            return weights, some.gather(-1, places[:, : weights.shape[1]])
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    weights = _cut(values, top_k, top_p, None)
    return weights, order[:, : weights.shape[1]]


def _cut(values: torch.Tensor, top_k: int, top_p: float, total: torch.Tensor | None) -> torch.Tensor:
    """Weights of descending logits [R, C], 0 beyond the filters. `total` [R, 1]: the whole row's mass, if C is a part."""
    values = values[:, :top_k] if top_k else values
    weights = (values - values[:, :1]).exp()
    if top_p < 1:
        mass = weights.cumsum(-1, dtype=torch.float64)
        total = mass[:, -1:] if top_k or total is None else total
        weights = weights.masked_fill(mass - weights >= top_p * total, 0.0)
        weights[:, 0] = 1.0  # top_p may be tiny; the most probable token always stays
    return weights


def inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The index at which the cumulated weights first exceed u * total, int64 [R], and the total, fp64 [R].

    weights fp32 [R, V] >= 0, u fp64 [R] in [0, 1). An entry of weight 0 is never chosen: the cumulated sum does not
    rise there. Long rows are summed in blocks first (in fp32, each to 1e-7 of itself), so that only one block a row is
    cumulated in fp64.
    """
    rows, size = weights.shape
    if size <= 8 * BLOCK:
        cdf = weights.cumsum(-1, dtype=torch.float64)
        total = cdf[:, -1]
        return (cdf <= (u * total)[:, None]).sum(-1), total
    padded = torch.nn.functional.pad(weights, (0, -size % BLOCK)) if size % BLOCK else weights
    padded = padded.reshape(rows, -1, BLOCK)
    sums = padded.sum(-1)
    block_cdf = sums.cumsum(-1, dtype=torch.float64)
    total = block_cdf[:, -1]
    target = u * total
    block = (block_cdf <= target[:, None]).sum(-1)
    inside = padded[torch.arange(rows, device=weights.device), block].cumsum(-1, dtype=torch.float64)
    rest = target - (_take(block_cdf, block) - _take(sums, block))
    # The block's own total may lie below the share of u that fell into it: it was rounded, and summed in another order.
    rest = torch.minimum(rest, inside[:, -1] * (1 - 1e-12)).clamp_(min=0)
    return block * BLOCK + (inside <= rest[:, None]).sum(-1), total


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return x.gather(-1, index[:, None])[:, 0]
