"""From inputs to tokens: converts a micro-batch to one shape and dtype, before and after its log-probs are known."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import losses
from pipeline.objectives.aggregate import token_weights
from pipeline.objectives.bounds import matched, static_bounds
from pipeline.objectives.config import as_config
from pipeline.objectives.importance import importance_on, importance_weight, needs_sequences
from pipeline.objectives.inputs import PerSample, PolicyLossInputs
from pipeline.objectives.sequences import Sequences
from pipeline.objectives.tokens import LOG_RATIO_LIMIT, Tokens

Where = slice | Tensor
"""Selects some tokens of `[T]`: a slice, or an int64 tensor of indices."""


@dataclass(frozen=True, kw_only=True)
class PreparedTokens:
    """The tokens of a micro-batch before the forward: everything except log-probs and entropies.

    Fields as in `Tokens`, all of one shape, fp64. `tokens` adds the model's outputs, for all tokens or chunk by chunk.
    """

    config: Any
    mask: Tensor
    usable: Tensor
    """bool: response tokens whose numbers here are all finite."""
    weight: Tensor
    old_logp: Tensor | None
    """None: the policy itself, so that every ratio is 1."""
    advantages: Tensor
    eps_low: Tensor
    eps_high: Tensor
    ref_logp: Tensor | None
    importance: Tensor | None
    gap: Tensor | None
    rollout_logp: Tensor | None
    """Kept if `old_logp` is None: gap and importance weight are then known after the forward only."""
    pass_rate: Tensor | None
    sequence: Sequences | None

    def tokens(self, logp: Tensor, entropy: Tensor | None = None, where: Where | None = None) -> Tokens:
        """Adds log-probs and entropies to the tokens that `where` selects (all, by default).

        `logp` and `entropy` have the selected shape and any floating dtype. Gradients flow into both, and are exactly 0
        at tokens that are masked or dropped. A token whose `logp` is NaN or infinite is dropped, and so is one whose
        `entropy` is, if `entropy_coef` is set.

        Raises ValueError if `entropy_coef` is set and `entropy` is None.
        """
        part = self if where is None else self._part(where)
        logp = logp.double()
        finite = torch.isfinite(logp)
        if self.config.entropy_coef:
            if entropy is None:
                raise ValueError(
                    "entropy_coef is set and needs `entropy`: set PolicyLossInputs.entropy, or algo.entropy_coef=0"
                )
            finite = finite & torch.isfinite(entropy)
        gap, importance, old_logp = part.gap, part.importance, part.old_logp
        if old_logp is None:
            old_logp = logp.detach()
            gap, importance = _compare(old_logp, part.rollout_logp, self.config)
            finite = finite if importance is None else finite & ~importance.isnan()
        keep = part.usable & finite
        # torch.where, never a product with the mask: 0 * NaN is NaN, in the value and in the gradient.
        logp = torch.where(keep, logp, 0.0)
        old_logp = torch.where(keep, old_logp, 0.0)
        if entropy is not None:
            entropy = entropy.double()
            entropy = torch.where(keep & torch.isfinite(entropy), entropy, 0.0)
        tokens = Tokens(
            keep=keep,
            dropped=part.mask & ~keep,
            weight=part.weight,
            logp=logp,
            old_logp=old_logp,
            log_ratio=torch.clamp(logp - old_logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT),
            advantages=part.advantages,
            eps_low=part.eps_low,
            eps_high=part.eps_high,
            ref_logp=part.ref_logp,
            importance=importance if importance is None else torch.where(keep, importance, 0.0),
            gap=gap,
            entropy=entropy,
            pass_rate=part.pass_rate,
            sequence=part.sequence,
        )
        return with_token_bounds(tokens, losses.of(self.config), self.config)

    def _part(self, where: Where) -> "PreparedTokens":
        """Selects tokens. The result has no sequences, since a selection may hold part of one."""
        tensors = {name: value[where] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, sequence=None)


def with_token_bounds(tokens: Tokens, loss: losses.Loss, config: Any) -> Tokens:
    """Replaces the bounds of responses by those of tokens, for a loss that has such a rule."""
    if loss.token_bounds is None:
        return tokens
    eps_low, eps_high = loss.token_bounds(tokens, config)
    return replace(tokens, eps_low=eps_low, eps_high=eps_high)


def prepare(inputs: PolicyLossInputs, config: Any = None) -> PreparedTokens:
    """Converts everything except `logp` and `entropy` to one shape and to fp64, and computes the tokens' weights.

    Entries outside the mask, and response tokens with a NaN or infinity, become 0. For `grpo_matched` the bounds become
    their mean over the live tokens given here; bounds from `clip_bounds` are that mean already and do not change.

    Args:
        inputs: the tokens, [T] or [B, T], any floating dtype; `logp` and `entropy` may be None.
        config: `pipeline.settings.Algo`, or anything that `as_config` accepts.

    Raises:
        ValueError: shapes do not fit, or something that the configured loss needs is missing.
        UsageError: there is no such loss.
    """
    config = as_config(config)
    first = next((name for name in ("old_logp", "logp", "mask") if getattr(inputs, name) is not None), None)
    if first is None:
        raise ValueError("without old_logp the tokens' shape is not known: set PolicyLossInputs.logp or mask")
    like = getattr(inputs, first)
    old_logp = None if inputs.old_logp is None else inputs.old_logp.detach().double()
    mask = torch.ones_like(like, dtype=torch.bool) if inputs.mask is None else inputs.mask.bool()
    shape = like.shape
    for name in ("logp", "mask", "ref_logp", "rollout_logp", "entropy", "sequence"):
        value = getattr(inputs, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, but {first} has {list(shape)}; they must be equal")
    if len(shape) not in (1, 2):
        raise ValueError(f"{first} must be [T] or [B, T], not {list(shape)}")

    def per_token(value: PerSample, name: str) -> Tensor:
        if not isinstance(value, Tensor):
            # In the dtype that a tensor of bounds has: 0.2 and a tensor of 0.2 must give the same loss to the bit.
            dtype = torch.promote_types(like.dtype, torch.float32)
            value = torch.full((), value, dtype=dtype, device=like.device)
        return _per_token(value, name, like, inputs.sequence)

    # A token is usable if every number that its loss reads is finite. Numbers that are only logged do not count: a NaN
    # in ref_logp with kl_coef = 0 must not drop the token.
    usable = mask if old_logp is None else mask & torch.isfinite(old_logp)
    advantages = per_token(inputs.advantages, "advantages")
    low, high = static_bounds(config)
    eps_low = per_token(low if inputs.eps_low is None else inputs.eps_low, "eps_low")
    eps_high = per_token(high if inputs.eps_high is None else inputs.eps_high, "eps_high")
    usable = usable & torch.isfinite(advantages) & torch.isfinite(eps_low) & torch.isfinite(eps_high)
    ref_logp = None if inputs.ref_logp is None else inputs.ref_logp.detach().double()
    if ref_logp is not None and config.kl_coef:
        usable = usable & torch.isfinite(ref_logp)
    gap = importance = None
    if importance_on(config) and inputs.rollout_logp is None:
        raise ValueError(
            "the importance weight is on and needs `rollout_logp`: set PolicyLossInputs.rollout_logp, or "
            "algo.is_weight=off"
        )
    # Sequences and weights count the mask, not `usable`: the global denominator is fixed before any token is dropped.
    sequences = _sequences(inputs, mask)
    if needs_sequences(config) and (old_logp is None or sequences is None):
        raise ValueError(
            "algo.is_form=sequence_mis needs the ratio of whole sequences before the forward: set "
            "PolicyLossInputs.old_logp, and `sequence` if tokens are packed [T]"
        )
    if old_logp is not None:
        gap, importance = _compare(old_logp, inputs.rollout_logp, config, sequences)
        usable = usable if importance is None else usable & ~importance.isnan()

    def clean(value: Tensor | None) -> Tensor | None:
        return None if value is None else torch.where(usable, value, 0.0)

    advantages = torch.where(usable, advantages, 0.0)
    eps_low, eps_high = torch.where(usable, eps_low, 0.0), torch.where(usable, eps_high, 0.0)
    if losses.of(config).matched:
        # After the cleaning, so that a dropped token (advantage 0 now) has no part in the mean.
        live = (advantages != 0).double()
        eps_low, eps_high = matched(eps_low, live), matched(eps_high, live)
    return PreparedTokens(
        config=config,
        mask=mask,
        usable=usable,
        weight=token_weights(inputs, mask, sequences, config),
        old_logp=clean(old_logp),
        advantages=advantages,
        eps_low=eps_low,
        eps_high=eps_high,
        ref_logp=clean(ref_logp),
        importance=clean(importance),
        gap=gap,
        rollout_logp=inputs.rollout_logp if old_logp is None else None,
        pass_rate=None if inputs.pass_rate is None else per_token(inputs.pass_rate, "pass_rate"),
        sequence=sequences,
    )


def _compare(
    old_logp: Tensor, rollout_logp: Tensor | None, config: Any, sequences: Sequences | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Gap and importance weight (None if it is off).

    The gap is never cleaned: its NaN and infinities are counted by the metrics. An infinite gap still has a weight; only a
    NaN has none.
    """
    if rollout_logp is None:
        return None, None
    gap = old_logp - rollout_logp.detach().double()
    return gap, importance_weight(gap, config, sequences) if importance_on(config) else None


def _per_token(value: Tensor, name: str, like: Tensor, sequence: Tensor | None) -> Tensor:
    """Expands `value` to the shape of `like`, in fp64."""
    value = value.detach().to(like.device, torch.float64)
    if value.shape == like.shape or value.dim() == 0:
        return value.expand(like.shape)
    if (
        sequence is not None
        and (value.dim() == like.dim() == 2 or value.dim() == like.dim() + 1)
        and value.shape[-1] == 1
    ):
        return value[:, 0][sequence]
    if like.dim() == 2 and sequence is None:
        column = value[:, None] if value.dim() == 1 else value
        if column.shape == (like.shape[0], 1):
            return column.expand(like.shape)
    raise ValueError(
        f"{name} has shape {list(value.shape)}, but tokens have {list(like.shape)}: give one number per token, or one "
        "per sequence as [B] or [B, 1] for rows [B, T], or as [N, 1] with `sequence` ids"
    )


def _sequences(inputs: PolicyLossInputs, mask: Tensor) -> Sequences | None:
    """Finds each token's sequence; None for packed tokens without ids."""
    ids = inputs.sequence
    if ids is None:
        if mask.dim() == 1:
            return None
        ids = torch.arange(mask.shape[0], device=mask.device)[:, None].expand(mask.shape)
        count = mask.shape[0]
        if inputs.lengths is not None and inputs.lengths.numel() != count:
            raise ValueError(f"lengths has {inputs.lengths.numel()} entries for {count} rows; give one per row")
    elif inputs.lengths is not None:
        count = max(inputs.lengths.numel(), 1)  # a micro-batch of padding alone still refers to sequence 0
    else:  # synchronises with the device; pass `lengths` to avoid that
        count = int(ids.max()) + 1 if ids.numel() else 0
    lengths = None
    if inputs.lengths is not None:
        lengths = inputs.lengths.reshape(-1).to(mask.device, torch.float64)
        lengths = lengths if len(lengths) else lengths.new_zeros(1)
    return Sequences(ids, mask, count, lengths, inputs.reduce)


__all__ = ["PreparedTokens", "prepare"]
