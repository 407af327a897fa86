"""The interface of all rollout engines."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """A templated, tokenized problem."""

    id: str
    token_ids: list[int]
    gold: str
    text: str = ""
    occurrence: int = 0
    """How often this prompt was given out before. It gets other responses each time, also under the same weights."""

    @property
    def stream(self) -> str:
        """Name of the random streams of its responses."""
        return f"{self.id}\x1e{self.occurrence}" if self.occurrence else self.id


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample. `seed` is the run's; a request's own stream also depends on `Prompt.stream`, its sample index and
    `policy_version`, never on what else is in the batch."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a response; the token itself is kept as the response's last token."""
    stop: tuple[str, ...] = ()
    """Strings that end a response; kept in the text, and no token after the one that completes them."""
    seed: int = 0

    @property
    def is_raw(self) -> bool:
        """Whether the distribution that is sampled from is the policy itself, so that one log-prob serves for both."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0


@dataclass(kw_only=True)
class Rollout:
    """One sampled response."""

    prompt: Prompt
    sample: int
    """Index within the group, 0 <= sample < group_size."""
    token_ids: list[int]
    """Response tokens, the stop token included."""
    logps: list[float]
    """Log-prob of each response token under the distribution it was sampled from (temperature, top-p, top-k)."""
    raw_logps: list[float]
    """The same under the raw policy at temperature 1. At temperature 1, top_p 1, top_k 0 the two are equal."""
    finish_reason: str
    """`stop` or `length`; `unfinished`: a later round continues it (`rollout.partial_tokens`)."""
    policy_version: int
    """Number of RL steps that the weights had seen which sampled the newest tokens."""
    text: str = ""
    """The decoded response, special tokens left out."""
    earlier: list[tuple[int, int]] = field(default_factory=list)
    """(version, tokens) of the beginning that older weights sampled, oldest first; empty if one version sampled all."""
    experts: np.ndarray | None = field(default=None, compare=False)
    """uint8 [tokens of prompt and response - 1, layers, k]: the experts that sampled it, + 1; 0: not needed. None: not
    recorded."""

    @property
    def is_finished(self) -> bool:
        return self.finish_reason != "unfinished"

    @property
    def token_versions(self) -> list[int]:
        """The version of the weights that sampled each token."""
        versions = [version for version, tokens in self.earlier for _ in range(tokens)]
        return versions + [self.policy_version] * (len(self.token_ids) - len(versions))


Groups = list[list[Rollout]]
"""The rollouts of each prompt, in the order of the prompts."""


def begin(prompts: list[Prompt], group_size: int) -> Groups:
    """Groups of responses that have no token yet."""
    return [
        [
            Rollout(
                prompt=prompt, sample=i, token_ids=[], logps=[], raw_logps=[], finish_reason="unfinished", policy_version=0
            )
            for i in range(group_size)
        ]
        for prompt in prompts
    ]  # fmt: skip


@dataclass(frozen=True)
class GenerationProgress:
    """Progress of one copy of the model on its share of a `generate`."""

    rows_done: int
    rows_total: int
    tokens: int
    """Sampled so far, those of unfinished rows included."""
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """From the rows finished so far; None before the first has."""
        if not self.rows_done:
            return None
        return self.seconds / self.rows_done * (self.rows_total - self.rows_done)


class RolloutEngine(ABC):
    """Generates on every rank of the torchrun world in step (SPMD): all ranks call with the same prompts, and all get
    all rollouts back, grouped by prompt in the order of `prompts`."""

    policy_version: int
    independent: bool
    """`generate` uses neither the actor's devices nor its process groups, so it may run in a thread while the actor
    trains."""

    def generate(
        self,
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> list[list[Rollout]]:
        """Samples `len(prompts)` groups of `group_size` rollouts, each to its end. Calls and raises as `advance`."""
        begun = begin(prompts, group_size)
        return self.advance(begun, sampling, sampling.max_new_tokens, on_finish=on_finish, on_progress=on_progress)

    @abstractmethod
    def advance(
        self,
        groups: Groups,
        sampling: Sampling,
        new_tokens: int,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> Groups:
        """Samples at most `new_tokens` more tokens of each unfinished response (`begin` makes new ones) from the engine's
        weights. Returns the groups with all responses, those that were finished as they are.

        `on_finish` is called with every rollout as it ends, on exactly one rank of the world, so that grading can start while
        others are still being sampled. `on_progress` is called from time to time on the first rank of each copy of the
        model, and with `rows_done == rows_total` at the end.
        """

    @abstractmethod
    def sync(self, actor: Any, policy_version: int) -> dict[str, float]:
        """Makes the engine sample from the actor's current weights; returns what to log (seconds, bytes, gap)."""

    @abstractmethod
    def sleep(self) -> None:
        """Frees the memory that only generation needs (KV cache, and for vLLM the weights) until the next `sync`."""
