"""A trial run of a user's loss on a few tokens: a mistake is an error at the start, and not a wrong gradient later."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.common.errors import UsageError
from pipeline.objectives.sequences import Sequences
from pipeline.objectives.tokens import Tokens
from pipeline.settings import Algo

COUNT = 8


def try_out(function: Callable[[Tokens, Any], Tensor], separable: bool, needs_signal: bool, label: str) -> None:
    """Runs `function` on `COUNT` tokens; also on each alone if it is `separable`, and with advantages 0 if it
    `needs_signal`.

    Raises UsageError if it fails, does not return one number per token, is not separable, or is not 0 without
    advantage. The message starts with `label`, which says where the function comes from.
    """
    whole = _tokens()
    try:
        result = function(whole, Algo())
        shape = list(result.shape)
    except Exception as error:
        raise UsageError(
            f"{label}: the loss failed on a trial of {COUNT} tokens: {type(error).__name__}: {error}"
        ) from error  # the function is the user's: any exception is possible
    if shape != [COUNT]:
        raise UsageError(
            f"{label}: the loss must return one number a token, [{COUNT}] for {COUNT} tokens, not {shape}; it must not "
            "sum or average"
        )
    if needs_signal and function(replace(whole, advantages=torch.zeros(COUNT).double()), Algo()).any():
        raise UsageError(
            f"{label}: the loss is registered with needs_signal=True, but is not 0 where the advantage is 0; "
            "register it with needs_signal=False"
        )
    if not separable:
        return
    problem = (
        f"{label}: the loss is registered with separable=True, but a token's loss depends on other tokens; register it "
        "with separable=False"
    )
    try:
        alone = torch.cat([function(_part(whole, slice(at, at + 1)), Algo()) for at in range(COUNT)])
    except Exception as error:
        raise UsageError(f"{problem} ({type(error).__name__}: {error})") from error
    if not torch.allclose(alone, result, rtol=1e-9, atol=1e-12):
        raise UsageError(problem)


def _tokens() -> Tokens:
    """Makes two sequences of ordinary response tokens, with every optional field set."""
    g = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(COUNT, generator=g, dtype=torch.float64)

    keep = torch.ones(COUNT, dtype=torch.bool)
    old_logp, log_ratio = uniform(-2, -1), uniform(-0.8, 0.8)
    return Tokens(
        keep=keep, dropped=~keep, weight=uniform(0.1, 0.2), logp=old_logp + log_ratio, old_logp=old_logp,
        log_ratio=log_ratio, advantages=uniform(-1, 1), eps_low=uniform(0.1, 0.3), eps_high=uniform(0.1, 0.4),
        ref_logp=uniform(-2, -1), importance=uniform(0.5, 2), gap=uniform(-0.1, 0.1), entropy=uniform(0, 2),
        pass_rate=uniform(0, 1), sequence=Sequences(torch.arange(COUNT) // (COUNT // 2), keep, 2),
    )  # fmt: skip


def _part(x: Tokens, where: slice) -> Tokens:
    return replace(
        x, **{k: v[where] for k, v in vars(x).items() if isinstance(v, Tensor) and k != "ratio"}, sequence=None
    )
