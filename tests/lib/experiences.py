"""Synthetic experience: random sequences of mixed lengths with everything that an objective reads."""

import torch

from pipeline.rl.experience import Experience, Samples, Signal


def random_experience(
    vocab_size: int,
    prompts: int = 3,
    group: int = 4,
    seed: int = 0,
    longest: int = 24,
    given_lengths: list[int] | None = None,
) -> Experience:
    """Makes groups of responses of 1 to `longest` tokens, or of `given_lengths` (which may be 0). Advantages, bounds
    and log-probs are drawn independently."""
    g = torch.Generator().manual_seed(seed)

    def numbers(low: int, high: int, count: int) -> list[int]:
        return torch.randint(low, high, (count,), generator=g).tolist()

    count = prompts * group
    lengths = torch.tensor(given_lengths or numbers(1, longest + 1, count))
    tokens = int(lengths.sum())
    rewards = torch.randint(0, 2, (prompts, group), generator=g).float()
    heads = [numbers(1, vocab_size, n) for n in numbers(2, 12, prompts)]
    rollout_logp = -torch.rand(tokens, generator=g) * 6
    samples = Samples(
        prompts=[heads[i // group] for i in range(count)],
        responses=[numbers(1, vocab_size, int(n)) for n in lengths],
        index=torch.arange(count),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        rollout_logp=rollout_logp,
        raw_logp=rollout_logp.clone(),
    )
    signal = Signal(
        advantages=torch.randn(count, generator=g),
        eps_low=torch.rand(count, generator=g) * 0.2 + 0.1,
        eps_high=torch.rand(count, generator=g) * 0.2 + 0.1,
        pass_rate=rewards.mean(1).repeat_interleave(group),
        lengths=lengths,
        group_size=group,
    )
    return Experience.of(samples, signal, old_logp=rollout_logp + torch.randn(tokens, generator=g) * 0.3)
