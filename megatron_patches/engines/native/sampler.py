"""From logits to tokens: temperature, top-k, top-p, and one uniform number per token from a counter-based stream.

Everything here is fp32, with sums in fp64. Each tensor-parallel rank samples a part of the rows.
"""

from dataclasses import dataclass

import torch

from pipeline.rollout.interface import Sampling

GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, odd: the counter's stride in SplitMix64 (Steele et al. 2014)
MIX_1, MIX_2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # multipliers of its finaliser, as signed 64-bit numbers
UNIFORM_BITS = 48  # few enough that u * total stays below total after rounding to fp64
CANDIDATES = 1024  # tokens that the filters try first: top-p sets are rarely larger
BLOCK = 128  # vocabulary entries of one block of the two-level inverse CDF


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifts right logically; torch's >> is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(keys: torch.Tensor, count: int, first: torch.Tensor | int = 0) -> torch.Tensor:
    """Computes `count` numbers of each stream, from number `first` on: int64 [R] -> fp64 [R, count] in [0, 1).

    The generator is SplitMix64 (Steele et al. 2014) with the key as seed. A number depends on its key and its place in
    the stream alone, so tokens do not depend on the batch.
    """
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    first = torch.as_tensor(first, dtype=torch.int64, device=keys.device)
    z = keys[:, None] + (counter + first[..., None]) * GOLDEN
    z = (z ^ _shift(z, 30)) * MIX_1
    z = (z ^ _shift(z, 27)) * MIX_2
    z = z ^ _shift(z, 31)
    return _shift(z, 64 - UNIFORM_BITS).double() * 2.0**-UNIFORM_BITS


@dataclass(frozen=True)
class Sampled:
    """The tokens of one step for R rows."""

    tokens: torch.Tensor
    """int64 [R]"""
    logps: torch.Tensor
    """fp32 [R], nats, under the distribution that was sampled from."""
    raw_logps: torch.Tensor
    """fp32 [R], nats, under softmax(logits)."""


def sample(logits: torch.Tensor, u: torch.Tensor, how: Sampling) -> Sampled:
    """Draws one token for each row: logits fp32 [R, V] (real vocabulary only), u fp64 [R] in [0, 1).

    The filters have the order of transformers: temperature, then top-k, then top-p of the rest. Greedy (temperature 0)
    is a distribution on one token, so its log-prob is 0. `logits` is overwritten: another tensor of its size would cost
    as much as the exponentials.
    """
    if how.temperature == 0:
        tokens = logits.argmax(-1)
        raw = _take(logits, tokens) - logits.logsumexp(-1)
        return Sampled(tokens, torch.zeros_like(raw), raw)
    scaled = logits if how.temperature == 1 else logits / how.temperature
    if how.top_k or how.top_p < 1:
        # Weights are not normalised: the total divides once, in the log-prob, in fp64.
        weights, order = filtered(scaled, how.top_k, how.top_p)
        place, total = inverse_cdf(weights, u)
        tokens = _take(order, place)
        logps = (_take(weights, place).double().log() - total.log()).float()
    else:
        weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
        tokens, total = inverse_cdf(weights, u)
        logps = (_take(weights, tokens).double().log() - total.log()).float()
        # Without temperature and filters both log-probs are one. Nothing may read `logits` after this block at
        # temperature 1, because `scaled` is `logits` there and holds the exponentials.
        if how.temperature == 1:
            return Sampled(tokens, logps, logps)
    return Sampled(tokens, logps, _take(logits, tokens) - logits.logsumexp(-1))


def filtered(logits: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the kept tokens, most probable first: unnormalised weights fp32 [R, K] (0 = dropped) and token ids [R, K].

    top_k keeps exactly k tokens. top_p keeps the smallest set of the most probable tokens whose mass reaches p. Ties go
    to the lower token id. Long rows are not sorted whole: the set is searched among the largest `CANDIDATES`, and the
    full sort runs only if a row's set reaches the last of them.

    Args:
        logits: fp32 [R, V], already divided by the temperature.
        top_k: 0 is off.
        top_p: 1 is off.
    """
    if logits.shape[1] > 4 * CANDIDATES and top_k < CANDIDATES:
        some = logits.topk(CANDIDATES, dim=-1).indices.sort(dim=-1).values  # by id, so that the sort below breaks ties
        values, places = logits.gather(-1, some).sort(dim=-1, descending=True, stable=True)
        # top_p is a share of the whole row's mass, so the total is over all tokens, not over the candidates.
        total = (logits - values[:, :1]).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        weights = _cut(values, top_k, top_p, total)
        # If the smallest kept logit is above the last candidate, no token outside the candidates can be kept, nor tie.
        smallest_kept = (values[:, : weights.shape[1]]).masked_fill(weights == 0, torch.inf).amin(-1)
        if bool((smallest_kept > values[:, -1]).all()):
            return weights, some.gather(-1, places[:, : weights.shape[1]])
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    weights = _cut(values, top_k, top_p, None)
    return weights, order[:, : weights.shape[1]]


def _cut(values: torch.Tensor, top_k: int, top_p: float, total: torch.Tensor | None) -> torch.Tensor:
    """Computes weights of descending logits [R, C], 0 outside the filters.

    `total` fp64 [R, 1] is the mass of the whole row if C is a part of it.
    """
    values = values[:, :top_k] if top_k else values
    weights = (values - values[:, :1]).exp()
    if top_p < 1:
        # A token is kept if the mass before it is below p. After top_k the mass is that of the k tokens alone.
        mass = weights.cumsum(-1, dtype=torch.float64)
        total = mass[:, -1:] if top_k or total is None else total
        weights = weights.masked_fill(mass - weights >= top_p * total, 0.0)
        weights[:, 0] = 1.0  # the most probable token stays even if top_p is tiny
    return weights


def inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the index at which the cumulative weights first exceed u * total, int64 [R], and the total, fp64 [R].

    weights fp32 [R, V] >= 0, u fp64 [R] in [0, 1). An entry of weight 0 is never chosen, because the cumulative sum
    does not rise there. Long rows are summed in blocks first (in fp32, each to a relative 1e-7), so that only one block
    per row needs a cumulative sum in fp64.
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
    # The same rule twice: first which block holds the target, then which entry of that block.
    block = (block_cdf <= target[:, None]).sum(-1)
    inside = padded[torch.arange(rows, device=weights.device), block].cumsum(-1, dtype=torch.float64)
    rest = target - (_take(block_cdf, block) - _take(sums, block))
    # The block's fp64 total can be below the rest of the target in it, since the block's sum was rounded to fp32 and
    # added in another order. Without the limit, an entry after the block's last weight would be chosen.
    rest = torch.minimum(rest, inside[:, -1] * (1 - 1e-12)).clamp_(min=0)
    return block * BLOCK + (inside <= rest[:, None]).sum(-1), total


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return x.gather(-1, index[:, None])[:, 0]
