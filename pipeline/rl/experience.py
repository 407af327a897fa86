"""Graded rollouts as one structure of arrays: what an update learns from.

A step's N sequences lie in the order of their groups, `N = prompts * group_size`; their response tokens lie end to end
in flat tensors `[T]`, sequence i at `offsets[i]:offsets[i + 1]`. Every rank holds all of it (a 1,024 x 4,096 batch is
16 MB a tensor), so that denominators are known without a collective and no layout decides which minibatch a sequence is in.
"""

from dataclasses import dataclass

import torch

from pipeline.rollout.interface import Rollout


@dataclass
class Experience:
    """One step's rollouts with rewards and what the objective derives from them. fp32 and int64, on the CPU."""

    prompts: list[list[int]]
    responses: list[list[int]]
    offsets: torch.Tensor
    """[N + 1]."""
    group: torch.Tensor
    """[N], index of the prompt."""
    rewards: torch.Tensor
    """[N]."""
    rollout_logp: torch.Tensor
    """[T], log-prob under the distribution that each token was sampled from."""
    raw_logp: torch.Tensor
    """[T], log-prob under the sampling weights at temperature 1 without top-p or top-k."""
    advantages: torch.Tensor
    """[N]."""
    eps_low: torch.Tensor
    """[N]."""
    eps_high: torch.Tensor
    """[N]."""
    pass_rate: torch.Tensor
    """[N], the group's mean reward, mapped to 0..1."""
    old_logp: torch.Tensor
    """[T], log-prob under the policy that the update starts from."""
    ref_logp: torch.Tensor | None = None
    """[T], log-prob under the reference policy, where a KL penalty asks for it."""

    @classmethod
    def collect(cls, groups: list[list[Rollout]], rewards: torch.Tensor) -> "Experience":
        """From engine output and its rewards `[prompts, group]`; advantages, bounds and old_logp are still zero."""
        rollouts = [rollout for group in groups for rollout in group]
        lengths = torch.tensor([len(r.token_ids) for r in rollouts], dtype=torch.int64)
        count, tokens = len(rollouts), int(lengths.sum())
        zeros = torch.zeros(count)
        return cls(
            prompts=[r.prompt.token_ids for r in rollouts],
            responses=[r.token_ids for r in rollouts],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            group=torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
            rewards=rewards.reshape(-1).float(),
            rollout_logp=torch.tensor([x for r in rollouts for x in r.logps], dtype=torch.float32),
            raw_logp=torch.tensor([x for r in rollouts for x in r.raw_logps], dtype=torch.float32),
            advantages=zeros,
            eps_low=zeros,
            eps_high=zeros,
            pass_rate=zeros,
            old_logp=torch.zeros(tokens),
        )

    @property
    def lengths(self) -> torch.Tensor:
        """Response lengths, int64 [N]."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.responses)


def minibatches(count: int, parts: int, seed: int) -> list[torch.Tensor]:
    """A seeded shuffle of `range(count)`, cut into `parts` index tensors of nearly equal size."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(parts) if len(part)]
