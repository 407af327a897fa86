"""What a step's update learns from, as one structure of arrays.

A step's N sequences lie in the order of their groups, `N = prompts * group_size`; their response tokens lie end to end
in flat tensors `[T]`, sequence i at `offsets[i]:offsets[i + 1]`. Every rank holds all of it (a 1,024 x 4,096 batch is
16 MB a tensor), so that denominators are known without a collective and no layout decides which minibatch a sequence is in.

Two classes, because the data come in two steps: `Samples` is what was sampled, and all that log-probs need. `Experience`
adds advantages, bounds and log-probs. Neither ever holds a field that is not valid yet. Both may hold some of the step's
sequences only (`index`): a response whose advantage is 0 moves nothing, so most updates leave it out.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import torch

from pipeline.rollout.interface import Rollout


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sampled sequences. Tensors are int64 and fp32, on the CPU."""

    prompts: list[list[int]]
    """[N][P_i] token ids."""
    responses: list[list[int]]
    """[N][R_i] token ids; may be empty."""
    index: torch.Tensor
    """[N], which of the step's sequences each is; ascending."""
    offsets: torch.Tensor
    """[N + 1], where each sequence's response tokens begin in the flat tensors."""
    rollout_logp: torch.Tensor
    """[T], log-prob under the distribution that each token was sampled from."""
    raw_logp: torch.Tensor
    """[T], log-prob under the sampling weights at temperature 1 without top-p or top-k."""
    experts: torch.Tensor | None = None
    """uint8 [positions, layers, k]: the experts that each position of the model's input has to visit, + 1; 0: those that the
    router chooses. Whoever scores or trains the samples obeys it. None: the router chooses everywhere."""

    @classmethod
    def collect(cls, groups: list[list[Rollout]]) -> "Samples":
        """The rollouts of all groups, in order."""
        rollouts = [rollout for group in groups for rollout in group]
        lengths = torch.tensor([len(r.token_ids) for r in rollouts], dtype=torch.int64)
        experts = [torch.from_numpy(r.experts) for r in rollouts if r.experts is not None]
        return cls(
            prompts=[r.prompt.token_ids for r in rollouts],
            responses=[r.token_ids for r in rollouts],
            index=torch.arange(len(rollouts)),
            offsets=_offsets(lengths),
            rollout_logp=torch.tensor([x for r in rollouts for x in r.logps], dtype=torch.float32),
            raw_logp=torch.tensor([x for r in rollouts for x in r.raw_logps], dtype=torch.float32),
            experts=torch.cat(experts) if len(experts) == len(rollouts) > 0 else None,
        )

    @cached_property
    def position_offsets(self) -> torch.Tensor:
        """int64 [N + 1], where each sequence's positions begin: prompt and response without the last token, which enters no
        model. A prompt without a response has all its tokens."""
        inputs = [len(p) + max(len(r), 1) - 1 for p, r in zip(self.prompts, self.responses, strict=True)]
        return _offsets(torch.tensor(inputs, dtype=torch.int64))

    @property
    def lengths(self) -> torch.Tensor:
        """Response lengths, int64 [N]."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return len(self.responses)

    def tokens_of(self, chosen: torch.Tensor) -> torch.Tensor:
        """int64 [t]: where the response tokens of the sequences `chosen` [n] lie in the flat tensors."""
        return _ranges(self.offsets, chosen)

    def select(self, chosen: torch.Tensor) -> "Samples":
        """The sequences `chosen` [n] alone, ascending."""
        at = self.tokens_of(chosen)
        return Samples(
            prompts=[self.prompts[i] for i in chosen.tolist()],
            responses=[self.responses[i] for i in chosen.tolist()],
            index=self.index[chosen],
            offsets=_offsets(self.lengths[chosen]),
            rollout_logp=self.rollout_logp[at],
            raw_logp=self.raw_logp[at],
            experts=None if self.experts is None else self.experts[_ranges(self.position_offsets, chosen)],
        )


def _ranges(offsets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    parts = [torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in chosen.tolist()]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _offsets(lengths: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the rewards say of all N sequences of a step, before any log-prob is known."""

    advantages: torch.Tensor
    """fp32 [N]."""
    eps_low: torch.Tensor
    """fp32 [N], lower clip bound of each response's ratios."""
    eps_high: torch.Tensor
    """fp32 [N], upper clip bound."""
    pass_rate: torch.Tensor
    """fp32 [N], the group's mean reward, mapped to 0..1."""
    lengths: torch.Tensor
    """int64 [N], response tokens."""
    group_size: int
    family: torch.Tensor | None = None
    """fp32 [members, 2, N]: bounds of the other algorithms of the family (`rl.counterfactual`), low and high; for metrics."""

    def __len__(self) -> int:
        return len(self.advantages)

    def scored(self, everything: bool) -> torch.Tensor:
        """int64 [n]: the sequences whose log-probs the step needs. All of them, or the groups with an advantage and, of each
        other group, the first response that is not empty: a sample for the metrics."""
        if everything:
            return torch.arange(len(self))
        groups = (self.advantages != 0).view(-1, self.group_size)
        wanted = groups.any(1, keepdim=True).expand_as(groups).reshape(-1).clone()
        wanted[self.sample()] = True
        return wanted.nonzero()[:, 0]

    def sample(self) -> torch.Tensor:
        """int64 [prompts]: the first response of each group that is not empty."""
        filled = (self.lengths.view(-1, self.group_size) > 0).to(torch.int8).argmax(1)
        return filled + torch.arange(len(filled)) * self.group_size

    def token_weights(self, samples: Samples) -> torch.Tensor:
        """fp64 [T] of `samples` (those of `scored` or `sample`): how many of the step's tokens each token speaks for."""
        counts = torch.zeros(len(self) // self.group_size, dtype=torch.float64)
        group = samples.index // self.group_size
        scored = counts.index_add(0, group, samples.lengths.double())
        whole = self.lengths.view(-1, self.group_size).sum(1).double()
        return (whole / scored.clamp(min=1))[group].repeat_interleave(samples.lengths)


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
    old_logp: torch.Tensor | None
    """[T], log-prob under the policy that the update starts from; None if the update is a single optimizer step, whose
    ratios are all 1."""
    ref_logp: torch.Tensor | None = None
    """[T], log-prob under the reference policy; None without a KL penalty."""

    signal: Signal
    """Of the whole step: what denominators and counts are taken from."""

    @classmethod
    def of(
        cls,
        samples: Samples,
        signal: Signal,
        old_logp: torch.Tensor | None,
        ref_logp: torch.Tensor | None = None,
        everything: bool = True,
    ) -> "Experience":
        """Of `samples` those with an advantage, or `everything`. Log-probs are `[T]` of `samples`."""
        chosen = torch.ones(len(samples), dtype=torch.bool) if everything else signal.advantages[samples.index] != 0
        rows = chosen.nonzero()[:, 0]
        at, kept = samples.tokens_of(rows), samples.select(rows)
        return cls(
            **{field.name: getattr(kept, field.name) for field in fields(Samples)},
            advantages=signal.advantages[kept.index],
            eps_low=signal.eps_low[kept.index],
            eps_high=signal.eps_high[kept.index],
            pass_rate=signal.pass_rate[kept.index],
            old_logp=None if old_logp is None else old_logp[at],
            ref_logp=None if ref_logp is None else ref_logp[at],
            signal=signal,
        )

    def rows_of(self, chosen: torch.Tensor) -> torch.Tensor:
        """int64 [n]: which of this experience's sequences are among the step's sequences `chosen`."""
        return torch.isin(self.index, chosen).nonzero()[:, 0]


def minibatches(count: int, parts: int, seed: int) -> list[torch.Tensor]:
    """A seeded shuffle of `range(count)`, cut into `parts` index tensors of nearly equal size."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(parts) if len(part)]
