"""The inputs of `policy_loss`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pipeline.objectives.sequences import Reduce

PerSample = Tensor | float
"""One number per token (the shape of `old_logp`), per sequence, or for all. Per sequence means `[B]` or `[B, 1]` if
tokens are rows `[B, T]`, and `[N, 1]` if they are packed with `sequence` ids."""


@dataclass
class PolicyLossInputs:
    """The tokens of one micro-batch, as rows `[B, T]` or packed `[T]`, in any floating dtype.

    Values outside the mask are ignored, NaN included. Gradients flow into `logp` and `entropy` only. Log-probs and
    entropies are in nats.
    """

    logp: Tensor | None
    """Of the current policy, `[T]` or `[B, T]`. None is allowed for `prepare` only."""
    old_logp: Tensor | None
    """Of the policy that the update started from. None: the current policy is that one (the first optimizer step of an
    update), so every ratio is 1."""
    advantages: PerSample
    mask: Tensor | None = None
    """Nonzero on response tokens. None: every token is a response token."""
    eps_low: PerSample | None = None
    eps_high: PerSample | None = None
    """Clip bounds, from `clip_bounds` (or `elastic_bounds`). None: the static bounds of the configured loss."""
    ref_logp: Tensor | None = None
    """Of the reference policy; needed if `kl_coef` > 0."""
    rollout_logp: Tensor | None = None
    """From the rollout engine at sampling; for the importance weight and the engine-trainer gap."""
    entropy: Tensor | None = None
    """Of the current policy; needed if `entropy_coef` is not 0."""
    pass_rate: PerSample | None = None
    """The group's mean reward on a scale of 0 to 1; the clipping metrics are broken down by it."""
    sequence: Tensor | None = None
    """int64, the shape of `old_logp`: which sequence (0 .. N - 1) each token belongs to. Without it, each row is one
    sequence. Packed tokens `[T]` need it for gspo and the seq-mean aggregations."""
    lengths: Tensor | None = None
    """[N] response tokens of each sequence. Needed if a sequence is split over context-parallel ranks and `reduce` is
    not given; otherwise counted here."""
    denominator: Tensor | float | None = None
    """Global count of the whole optimizer step, over all micro-batches and data-parallel ranks: response tokens for
    "token-mean", sequences with a response otherwise (`denominator()` picks). None: counted from these tensors."""
    length_norm: float | None = None
    """For "seq-mean-token-sum-norm": the constant that divides a sequence's sum (the greatest response length). None:
    T of rows `[B, T]`."""
    reduce: Reduce | None = None
    """Sums a tensor `[N]` over context-parallel ranks; for gspo's sequence ratio, and for `lengths` if not given."""


def as_inputs(given: Any) -> PolicyLossInputs:
    """Makes a PolicyLossInputs of a mapping or of any object with some of its fields; returns one unchanged.

    Raises TypeError for an unknown key of a mapping or a missing required field.
    """
    if isinstance(given, PolicyLossInputs):
        return given
    if isinstance(given, Mapping):
        return PolicyLossInputs(**given)
    return PolicyLossInputs(
        **{field.name: getattr(given, field.name) for field in fields(PolicyLossInputs) if hasattr(given, field.name)}
    )
