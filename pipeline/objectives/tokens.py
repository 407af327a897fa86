"""The argument of a loss function: one entry per token, in fp64, with NaN and infinity removed."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from pipeline.objectives.sequences import Sequences

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20: exp(20) is 5e8, far beyond any clip bound, and products stay finite in fp32."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tensors of one shape, `[T]` or `[B, T]`, in fp64; exactly 0 outside the response mask.

    Log-probs, log-ratio and entropy are exactly 0 at dropped tokens as well.

    A loss is a small difference of large sums, and its rounding must not depend on how the batch was split: hence fp64.
    The tensors hold one number per token, where hidden states hold thousands, so the cost is negligible.
    """

    keep: Tensor
    """bool: response tokens whose numbers are all finite."""
    dropped: Tensor
    """bool: response tokens left out because one of their numbers is NaN or infinite."""
    weight: Tensor
    """Factor on the token's loss before the sum: the aggregation with its global denominator."""
    logp: Tensor
    """Of the current policy; carries the gradient."""
    old_logp: Tensor
    """Of the policy that the update started from."""
    log_ratio: Tensor
    """clamp(logp - old_logp, -20, 20); carries the gradient."""
    advantages: Tensor
    eps_low: Tensor
    eps_high: Tensor
    ref_logp: Tensor | None
    """Of the reference policy, if given. A NaN drops the token only if `kl_coef` is set, and else stays in here."""
    importance: Tensor | None
    """Truncated importance weight between rollout engine and trainer, if it is on."""
    gap: Tensor | None
    """old_logp - rollout_logp, if rollout log-probs were given. For metrics alone: it may be NaN or infinite."""
    entropy: Tensor | None
    """Of the current policy, if given; carries the gradient."""
    pass_rate: Tensor | None
    """The group's mean reward on a scale of 0 to 1, if given."""
    sequence: Sequences | None
    """The response tokens' sequences, dropped tokens included; a loss calls `sequences()` instead."""

    @cached_property
    def ratio(self) -> Tensor:
        """rho = exp(log_ratio); carries the gradient."""
        return self.log_ratio.exp()

    def sequences(self) -> Sequences:
        """The sequences of the kept tokens, for losses that need whole ones: dropped tokens count in no sum or length.

        Raises ValueError if the tokens do not say which sequence they belong to.
        """
        if self.sequence is None:
            raise ValueError(
                "this loss needs to know which tokens form a sequence: give PolicyLossInputs rows [B, T], or packed "
                "tokens [T] with `sequence` ids, and register the loss with separable=False"
            )
        # The given lengths are those of the response, with dropped tokens: kept ones are known only after the forward.
        return replace(self.sequence, keep=self.keep, given_lengths=None)
