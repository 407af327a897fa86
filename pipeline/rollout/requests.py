"""Limits of requests, and how they are shared among copies of the model.

Every rank computes the same result, so that no rank waits for one that raised."""

from dataclasses import dataclass

from pipeline.common.errors import InputError, UsageError
from pipeline.rollout.interface import Prompt, Sampling
from pipeline.settings import Rollout

ROWS = "the limit rollout.max_prompt_tokens + rollout.max_new_tokens, or the model's context,"


@dataclass(frozen=True)
class Limit:
    """Most tokens of prompt and response together."""

    tokens: int
    name: str
    """Name of the limit in messages: `they exceed <name> of 256 tokens`."""


def row_budget(rollout: Rollout, context: int) -> Limit:
    """Longest prompt and response together that the settings allow; `context` is the model's, in tokens."""
    return Limit(min(rollout.max_prompt_tokens + rollout.max_new_tokens, context), ROWS)


def check_requests(rollout: Rollout, prompts: list[Prompt], sampling: Sampling, limit: Limit) -> None:
    """Checks prompts and their responses against `rollout.max_prompt_tokens` and `limit`.

    Raises:
        InputError: an empty prompt, or one longer than rollout.max_prompt_tokens.
        UsageError: no tokens allowed, or prompt and response exceed the limit.
    """
    longest = rollout.max_prompt_tokens
    if sampling.max_new_tokens < 1:
        raise UsageError(f"rollout.max_new_tokens={sampling.max_new_tokens}: at least 1 is needed")
    for prompt in prompts:
        length = len(prompt.token_ids)
        if not length:
            raise InputError(f"prompt {prompt.id!r} has no tokens. Delete the problem, or give it a text")
        if length > longest:
            raise InputError(
                f"prompt {prompt.id!r} has {length} tokens, and rollout.max_prompt_tokens allows {longest}. Raise it, or drop "
                "the problem (data.clean.max_problem_chars)"
            )
        if length + sampling.max_new_tokens > limit.tokens:
            raise UsageError(
                f"prompt {prompt.id!r} has {length} tokens and rollout.max_new_tokens={sampling.max_new_tokens}; together "
                f"they exceed {limit.name} of {limit.tokens} tokens. Lower rollout.max_new_tokens to "
                f"{max(limit.tokens - length, 0)}, or rollout.max_prompt_tokens to "
                f"{max(limit.tokens - sampling.max_new_tokens, 0)}"
            )


def shares_of(prompts: list[Prompt], sampling: Sampling, count: int) -> list[list[int]]:
    """Indices of `prompts` for each of `count` copies of the model, about equally heavy: longest first, each to the copy
    with the least load."""
    costs = [len(prompt.token_ids) + sampling.max_new_tokens // 2 for prompt in prompts]
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(i)
        loads[lightest] += costs[i]
    return shares
