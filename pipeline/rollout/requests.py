"""Limits of requests, and how they are shared among copies of the model.

Every rank computes the same result, so that no rank waits for one that raised."""

from dataclasses import dataclass

from pipeline.common.errors import InputError, UsageError
from pipeline.rollout.interface import Groups, Prompt, Sampling
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


@dataclass(frozen=True)
class Source:
    """Tokens that responses of one group continue: its prompt, or the prompt and the beginning of one response."""

    group: int
    """Index into the groups."""
    stream: str
    """The prompt's `Prompt.stream`."""
    token_ids: list[int]
    begun: int
    """How many of them, at the end, are of the response."""
    samples: tuple[int, ...]
    """Indices within the group of the responses to sample."""
    most: int
    """Most new tokens of each."""

    @property
    def cost(self) -> int:
        """About how long its responses take, in tokens."""
        return (len(self.token_ids) + self.most // 2) * len(self.samples)


def sources_of(groups: Groups, sampling: Sampling, new_tokens: int) -> list[Source]:
    """What the unfinished responses of `groups` continue, with at most `new_tokens` more tokens each. Responses without a
    token share their prompt."""
    sources = []
    for i, group in enumerate(groups):
        prompt, limit = group[0].prompt, sampling.max_new_tokens
        fresh = tuple(r.sample for r in group if not r.is_finished and not r.token_ids)
        if fresh:
            sources.append(Source(i, prompt.stream, prompt.token_ids, 0, fresh, min(new_tokens, limit)))
        for r in group:
            if not r.is_finished and r.token_ids:
                begun = len(r.token_ids)
                most = min(new_tokens, limit - begun)
                sources.append(Source(i, prompt.stream, prompt.token_ids + r.token_ids, begun, (r.sample,), most))
    return sources


def shares_of(sources: list[Source], count: int) -> list[list[Source]]:
    """The sources for each of `count` copies of the model, about equally heavy: costliest first, each to the copy with the
    least load."""
    costs = [source.cost for source in sources]
    shares: list[list[Source]] = [[] for _ in range(count)]
    loads = [0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(sources[i])
        loads[lightest] += costs[i]
    return shares
