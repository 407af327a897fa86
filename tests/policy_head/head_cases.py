"""A small problem for the tests of the policy head, and its naive solution in fp64."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Inputs of one head: hidden `[T, H]`, weight `[V, H]`, targets `[T]`, and the weights `[T]` of the loss."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    by_logp: Tensor
    by_entropy: Tensor

    def objective(self, where: slice | Tensor, logp: Tensor, entropy: Tensor) -> Tensor:
        """`a exp(logp) + b entropy^2`, not linear, so that a wrong incoming gradient shows."""
        return self.by_logp[where] * logp.exp() + self.by_entropy[where] * entropy**2


def problem(tokens=36, hidden=8, vocab=50, real=None, dtype=torch.float64, seed=0) -> Problem:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocab, hidden, generator=g, dtype=torch.float64)
    return Problem(
        hidden=torch.randn(tokens, hidden, generator=g, dtype=torch.float64).to(dtype).requires_grad_(),
        weight=weight.to(dtype).requires_grad_(),
        targets=torch.randint(0, real or vocab, (tokens,), generator=g),
        by_logp=torch.randn(tokens, generator=g, dtype=torch.float64),
        by_entropy=torch.randn(tokens, generator=g, dtype=torch.float64),
    )


def naive(p: Problem, temperature=1.0, vocab_size=None) -> tuple[Tensor, Tensor]:
    """Computes log-prob and entropy, `[T]` each, by a full log-softmax in fp64 over the real rows."""
    logits = p.hidden.double() @ p.weight[:vocab_size].double().t() / temperature
    log_p = logits.log_softmax(-1)
    return log_p.gather(1, p.targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)


def largest_gap(*pairs: tuple[Tensor, Tensor]) -> float:
    """Returns the largest |a - b| over the pairs; shapes must be equal."""
    for a, b in pairs:
        assert a.shape == b.shape, f"{list(a.shape)} against {list(b.shape)}"
    return max(((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel()), default=0.0)
