"""From an engine's responses to rollouts in groups, the same on every rank."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.rollout.interface import GenerationProgress, Groups, Rollout
from pipeline.rollout.meter import Meter
from pipeline.rollout.packing import Key, pack, unpack


@dataclass(frozen=True)
class Response:
    """What an engine has sampled of one response: the whole, or the next part of one that was begun before."""

    group: int
    """Index into the groups."""
    sample: int
    token_ids: list[int]
    logps: list[float]
    raw_logps: list[float]
    stopped: bool
    """False: it ran into the limit of its length, or of the round's new tokens."""
    experts: np.ndarray | None = None
    """`Rollout.experts`, of the whole response."""


class Gathering:
    """The part of a `generate` or `advance` that one rank has: what its copy of the model adds to `groups`."""

    def __init__(
        self,
        groups: Groups,
        max_new_tokens: int,
        policy_version: int,
        tokenizer: Any,
        *,
        expected: int,
        on_finish: Callable[[Rollout], None] | None,
        on_progress: Callable[[GenerationProgress], None] | None,
        rank: int = 0,
        size: int = 1,
        exchange: Callable[[Any], list[Any]] | None = None,
    ):
        """`max_new_tokens` is the length of a whole response that no stop ended. `expected` responses come to this rank, the
        same to each of the `size` ranks of its copy of the model: they take turns in calling `on_finish`, and rank 0 reports
        progress. `exchange` gives every rank the packed parts that make up the whole; None where each has all of it."""
        self.begun, self.max_new_tokens, self.policy_version = groups, max_new_tokens, policy_version
        self.tokenizer, self.on_finish, self.rank, self.size = tokenizer, on_finish, rank, size
        self.exchange = exchange
        self.meter = Meter(expected, on_progress if rank == 0 else None)
        self.made: dict[Key, Rollout] = {}

    def add(self, response: Response) -> None:
        """Takes what was sampled of a response; decodes its text if it has ended."""
        rollout = self._continued(self.begun[response.group][response.sample], response)
        self.made[response.group, response.sample] = rollout
        self.meter.row()
        number = response.group * len(self.begun[response.group]) + response.sample
        if self.on_finish is not None and rollout.is_finished and number % self.size == self.rank:
            self.on_finish(rollout)

    def _continued(self, before: Rollout, response: Response) -> Rollout:
        """The response up to now; the tokens that it had keep their versions."""
        tokens, earlier = before.token_ids + response.token_ids, list(before.earlier)
        if before.token_ids and before.policy_version != self.policy_version:
            earlier.append((before.policy_version, len(before.token_ids) - sum(count for _, count in earlier)))
        ended = response.stopped or len(tokens) == self.max_new_tokens
        has_text = ended and self.tokenizer is not None
        return Rollout(
            prompt=before.prompt,
            sample=before.sample,
            token_ids=tokens,
            logps=before.logps + response.logps,
            raw_logps=before.raw_logps + response.raw_logps,
            finish_reason="stop" if response.stopped else "length" if ended else "unfinished",
            policy_version=self.policy_version,
            text=self.tokenizer.decode(tokens, skip_special_tokens=True) if has_text else "",
            earlier=earlier,
            experts=response.experts,
        )

    def groups(self) -> Groups:
        """All rollouts: those that were sampled, and the others as they were."""
        self.meter.report()
        made = self.made
        if self.exchange is not None:
            prompts = [group[0].prompt for group in self.begun]
            parts = self.exchange(pack(made))
            made = {key: one for part in parts for key, one in unpack(part, prompts)}
        return [[made.get((i, r.sample), r) for r in group] for i, group in enumerate(self.begun)]
