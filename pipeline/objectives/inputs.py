"""What `policy_loss` takes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from pipeline.objectives.sequences import Reduce

PerSample = Tensor | float
"""A number a token (the shape of `old_logp`), a sequence (`[B]` or `[B, 1]` beside `[B, T]`; `[N, 1]` beside packed
tokens and their `sequence` ids), or one for all."""


@dataclass
class PolicyLossInputs:
    """The tokens of one micro-batch, as rows `[B, T]` or packed `[T]`, in any floating dtype.

    Values under the mask may be anything, NaN included. Only `logp` and `entropy` are differentiated.
    """

    logp: Tensor | None
    """Current policy, `[T]` or `[B, T]`. None only for `prepare`, before it is known."""
    old_logp: Tensor
    """Policy that the update started from."""
    advantages: PerSample
    mask: Tensor | None = None
    """Nonzero on response tokens. None: every token is one."""
    eps_low: PerSample | None = None
    eps_high: PerSample | None = None
    """Clip bounds, from `clip_bounds` (or `elastic_bounds`). None: the configured loss's static ones."""
    ref_logp: Tensor | None = None
    """Reference policy; needed where `kl_coef` > 0."""
    rollout_logp: Tensor | None = None
    """What the rollout engine said when it sampled; for the importance weight and the engine-trainer gap."""
    entropy: Tensor | None = None
    """Of the current policy; needed where `entropy_coef` is not 0."""
    pass_rate: PerSample | None = None
    """The group's mean reward on a scale of 0 to 1, by which clipping is broken down."""
    sequence: Tensor | None = None
    """int64, the shape of `old_logp`: which sequence (0 .. N - 1) each token belongs to. Rows `[B, T]` without it are
    one sequence each. Needed beside `[T]` for gspo and the seq-mean aggregations."""
    lengths: Tensor | None = None
    """[N] response tokens of each sequence; needed where a sequence is cut over context-parallel ranks and `reduce` is
    not given, and otherwise counted here."""
    denominator: Tensor | float | None = None
    """Global count of the whole optimizer step, over all micro-batches and data-parallel ranks: response tokens for
    "token-mean", sequences with a response otherwise (`denominator()` picks). None: counted from these tensors."""
    length_norm: float | None = None
    """"seq-mean-token-sum-norm": the constant that a sequence's sum is divided by (the greatest response length). None:
    T of rows `[B, T]`."""
    reduce: Reduce | None = None
    """Sums a tensor `[N]` over context-parallel ranks, for gspo's sequence ratio (and `lengths`, where not given)."""


def as_inputs(given: Any) -> PolicyLossInputs:
    """A PolicyLossInputs as it is; a mapping (unknown keys are a TypeError) or any object with its fields as one."""
    if isinstance(given, PolicyLossInputs):
        return given
    if isinstance(given, Mapping):
        return PolicyLossInputs(**given)
    return PolicyLossInputs(
        **{field.name: getattr(given, field.name) for field in fields(PolicyLossInputs) if hasattr(given, field.name)}
    )
