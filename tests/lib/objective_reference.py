"""The objective again, in plain Python floats and loops, from the formulas of docs/objective.md. Derivatives are
written by hand. Nothing of `pipeline.objectives` is used here."""

import math
from dataclasses import dataclass, field


@dataclass
class Sample:
    """One response: the numbers of its tokens, in lists of one length, which may be 0."""

    logp: list[float]
    old: list[float]
    advantage: float
    eps_low: float
    eps_high: float
    ref: list[float] = field(default_factory=list)
    rollout: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)


@dataclass
class Options:
    loss: str = "etr"
    aggregate: str = "token-mean"
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl: str = "k3"
    kl_clamp: float | None = None
    entropy_coef: float = 0.0
    is_cap: float | None = None
    length_norm: float = 1.0


def advantages(rewards: list[float], normalize: str, std_ddof: int = 0) -> tuple[list[float], float]:
    """Computes advantages and population variance of one group."""
    n = len(rewards)
    if max(rewards) == min(rewards):
        return [0.0] * n, 0.0
    mean = math.fsum(rewards) / n
    variance = math.fsum((r - mean) ** 2 for r in rewards) / n
    if normalize == "std":
        std = math.sqrt(variance * n / (n - std_ddof))
        return [(r - mean) / (std + 1e-6) for r in rewards], variance
    if normalize == "none":
        return [r - mean for r in rewards], variance
    return [r - (math.fsum(rewards) - r) / (n - 1) for r in rewards], variance


def scale(advantage: float, variance: float, c) -> float:
    h = {"linear": lambda x: x, "sqrt": math.sqrt, "tanh": math.tanh}[c.h]
    micro = 1 + c.alpha * (h(abs(advantage)) - h(1.0))
    v = min(max(variance / ((c.reward_max - c.reward_min) / 2) ** 2, 0.0), 1.0)
    macro = {"variance": 1 + c.beta * (2 * v - 1), "std": 1 + c.beta * (2 * math.sqrt(v) - 1), "none": 1.0}[c.k]
    return min(max(micro * macro, c.scale_min), c.scale_max)


def bounds(advantage: float, variance: float, c) -> tuple[float, float]:
    s = scale(advantage, variance, c)
    return min(c.eps_low * s, c.eps_low_max), c.eps_high * s


def loss_and_gradient(samples: list[Sample], o: Options) -> tuple[float, float, list[list[float]], list[list[float]]]:
    """Computes the loss, the sum of its terms' absolute values, and its derivatives by every log-prob and entropy."""
    tokens = sum(len(s.logp) for s in samples)
    sequences = sum(len(s.logp) > 0 for s in samples)
    bounded = _matched(samples) if o.loss == "grpo_matched" else [(s.eps_low, s.eps_high) for s in samples]
    terms, d_logp, d_entropy = [], [], []
    for s, (low, high) in zip(samples, bounded, strict=True):
        n = len(s.logp)
        weight = {
            "token-mean": 1 / max(tokens, 1),
            "seq-mean-token-mean": 1 / (max(n, 1) * max(sequences, 1)),
            "seq-mean-token-sum-norm": 1 / (o.length_norm * max(sequences, 1)),
        }[o.aggregate]
        steps = [_clamp(a - b) for a, b in zip(s.logp, s.old, strict=True)]
        mean_step = math.fsum(x for x, _ in steps) / max(n, 1)
        row_logp, row_entropy = [], []
        for t in range(n):
            log_ratio, inside = steps[t]
            if o.loss == "sapo":
                tau = 1.0 if s.advantage > 0 else 1.05
                gate = 1 / (1 + math.exp(-tau * (math.exp(log_ratio) - 1)))
                value = -4 / tau * gate * s.advantage
                slope = -4 * gate * (1 - gate) * s.advantage * math.exp(log_ratio) * inside
            elif o.loss == "abc_grpo":
                ratio = math.exp(log_ratio)
                least, most = (1 - 0.2, 1 + high) if s.advantage > 0 else (1 - low, 1 + 0.2)
                value = -min(max(ratio, least), most) * s.advantage
                slope = -s.advantage * ratio * inside if least <= ratio <= most else 0.0
            elif o.loss == "cispo":
                w = min(math.exp(log_ratio), 1 + high)
                value, slope = -w * s.advantage * s.logp[t], -w * s.advantage
            else:
                ratio = math.exp(mean_step if o.loss == "gspo" else log_ratio)
                shift = _dc_grpo_shift(s.advantage, s.old[t]) if o.loss == "dc_grpo" else 0.0
                value, by_ratio = _surrogate(
                    ratio, s.advantage, max(low - shift, 0.0), max(high + shift, 0.0), o.dual_clip
                )
                slope = by_ratio * ratio * inside
            if o.is_cap is not None:
                w = min(math.exp(min(s.old[t] - s.rollout[t], 50.0)), o.is_cap)
                value, slope = value * w, slope * w
            if o.kl_coef:
                d, inside_ref = _clamp(s.logp[t] - s.ref[t])
                kl, by_d = {
                    "k1": (d, 1.0),
                    "k2": (d * d / 2, d),
                    "k3": (math.exp(-d) + d - 1, 1 - math.exp(-d)),
                }[o.kl]
                if o.kl_clamp is not None and abs(kl) > o.kl_clamp:
                    kl, by_d = math.copysign(o.kl_clamp, kl), 0.0
                value, slope = value + o.kl_coef * kl, slope + o.kl_coef * by_d * inside_ref
            if o.entropy_coef:
                value -= o.entropy_coef * s.entropy[t]
            terms.append(weight * value)
            row_logp.append(weight * slope)
            row_entropy.append(-weight * o.entropy_coef)
        d_logp.append(row_logp)
        d_entropy.append(row_entropy)
    return math.fsum(terms), math.fsum(map(abs, terms)), d_logp, d_entropy


def _clamp(x: float) -> tuple[float, float]:
    return min(max(x, -20.0), 20.0), float(-20.0 <= x <= 20.0)


def _surrogate(ratio: float, a: float, low: float, high: float, dual: float | None) -> tuple[float, float]:
    """Computes the surrogate and its derivative by the ratio."""
    clipped = min(max(ratio, 1 - low), 1 + high)
    if ratio * a <= clipped * a:
        value, slope = -ratio * a, -a
    else:
        value, slope = -clipped * a, 0.0
    if dual is not None and a < 0 and value > -dual * a:
        value, slope = -dual * a, 0.0
    return value, slope


def _dc_grpo_shift(a: float, old: float) -> float:
    """Computes what a token's upper bound gains, and its lower bound loses."""
    q = 1 - math.exp(old) if a > 0 else math.exp(old)
    return math.copysign(0.15 * q**1.8 / (1 + math.exp(-abs(a))), a) if a else 0.0


def _matched(samples: list[Sample]) -> list[tuple[float, float]]:
    live = [s for s in samples if s.advantage != 0 and s.logp]
    tokens = sum(len(s.logp) for s in live)
    if not tokens:
        return [(s.eps_low, s.eps_high) for s in samples]
    low = math.fsum(s.eps_low * len(s.logp) for s in live) / tokens
    high = math.fsum(s.eps_high * len(s.logp) for s in live) / tokens
    return [(low, high)] * len(samples)
