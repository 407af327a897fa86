"""What a step's update learns from, as one structure of arrays.

A step's N sequences lie in the order of their groups, `N = prompts * group_size`; their response tokens lie end to end
in flat tensors `[T]`, sequence i at `offsets[i]:offsets[i + 1]`. Every rank holds all of it (a 1,024 x 4,096 batch is
16 MB a tensor), so that denominators are known without a collective and no layout decides which minibatch a sequence is in.

Two classes, because the data come in two steps: `Samples` is what was sampled, and all that log-probs need. `Experience`
adds advantages, bounds and log-probs. Neither ever holds a field that is not valid yet.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch

from pipeline.rollout.interface import Rollout


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sampled sequences. Tensors are int64 and fp32, on the CPU."""

    prompts: list[list[int]]
    """[N][P_i] token ids."""
    responses: list[list[int]]
    """[N][R_i] token ids; may be empty."""
    offsets: torch.Tensor
    """[N + 1], where each sequence's response tokens begin in the flat tensors."""
    rollout_logp: torch.Tensor
    """[T], log-prob under the distribution that each token was sampled from."""
    raw_logp: torch.Tensor
    """[T], log-prob under the sampling weights at temperature 1 without top-p or top-k."""

    @classmethod
    def collect(cls, groups: list[list[Rollout]]) -> "Samples":
        """The rollouts of all groups, in order."""
        rollouts = [rollout for group in groups for rollout in group]
        lengths = torch.tensor([len(r.token_ids) for r in rollouts], dtype=torch.int64)
        return cls(
            prompts=[r.prompt.token_ids for r in rollouts],
            responses=[r.token_ids for r in rollouts],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            rollout_logp=torch.tensor([x for r in rollouts for x in r.logps], dtype=torch.float32),
            raw_logp=torch.tensor([x for r in rollouts for x in r.raw_logps], dtype=torch.float32),
        )

    @property
    def lengths(self) -> torch.Tensor:
        """Response lengths, int64 [N]."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.responses)


@dataclass(frozen=True, kw_only=True)
class Experience(Samples):
    """Samples with everything that the policy loss reads."""

    advantages: torch.Tensor
    """[N]."""
    eps_low: torch.Tensor
    """[N], lower clip bound of each response's ratios."""
    eps_high: torch.Tensor
    """[N], upper clip bound."""
    pass_rate: torch.Tensor
    """[N], the group's mean reward, mapped to 0..1."""
    old_logp: torch.Tensor
    """[T], log-prob under the policy that the update starts from."""
    ref_logp: torch.Tensor | None = None
    """[T], log-prob under the reference policy; None without a KL penalty."""

    @classmethod
    def of(cls, samples: Samples, **derived: Any) -> "Experience":
        """`samples` with the fields that this class adds."""
        return cls(**{field.name: getattr(samples, field.name) for field in fields(Samples)}, **derived)


def minibatches(count: int, parts: int, seed: int) -> list[torch.Tensor]:
    """A seeded shuffle of `range(count)`, cut into `parts` index tensors of nearly equal size."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(parts) if len(part)]
