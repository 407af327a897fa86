"""What a loss function sees: one entry a token, in fp64, and nothing that could be NaN or infinite."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from pipeline.objectives.sequences import Sequences

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20: exp(20) is 5e8, far beyond any clip bound, and its products stay finite in fp32."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tensors of one shape, `[T]` or `[B, T]`, in fp64; exactly 0 where `keep` is False.

    fp64 because a loss is a small difference of large sums: its rounding must not depend on how the batch was cut. The
    tensors hold one number a token, next to the hidden states' thousands, so it costs nothing that can be seen.
    """

    keep: Tensor
    """bool: response tokens whose numbers are all finite."""
    dropped: Tensor
    """bool: response tokens left out because one of their numbers is NaN or infinite."""
    weight: Tensor
    """What the token's loss is multiplied by before all are summed (the aggregation and its global denominator)."""
    logp: Tensor
    """Current policy; carries the gradient."""
    old_logp: Tensor
    """Policy that the update started from."""
    log_ratio: Tensor
    """clamp(logp - old_logp, -20, 20); carries the gradient."""
    advantages: Tensor
    eps_low: Tensor
    eps_high: Tensor
    ref_logp: Tensor | None
    """Reference policy, where given."""
    importance: Tensor | None
    """Truncated importance weight between rollout engine and trainer, where it is on."""
    gap: Tensor | None
    """old_logp - rollout_logp, infinite or NaN where those are; where rollout log-probs were given."""
    entropy: Tensor | None
    """Of the current policy; carries the gradient where the bonus is on."""
    pass_rate: Tensor | None
    """The group's mean reward on a scale of 0 to 1, where given."""
    sequence: Sequences | None

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
                "this loss needs to know which tokens belong together: give PolicyLossInputs rows [B, T], or "
                "`sequence` ids with [T], and register the loss with separable=False"
            )
        # The given lengths are those of the response, with dropped tokens: kept ones are known only after the forward.
        return replace(self.sequence, keep=self.keep, given_lengths=None)
