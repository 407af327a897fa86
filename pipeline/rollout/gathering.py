"""From an engine's responses to rollouts in groups, the same on every rank."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.rollout.interface import GenerationProgress, Groups, Prompt, Rollout
from pipeline.rollout.meter import Meter
from pipeline.rollout.packing import Key, pack, unpack


@dataclass(frozen=True)
class Response:
    """One finished response of an engine."""

    prompt: int
    """Index into the list of prompts."""
    sample: int
    token_ids: list[int]
    logps: list[float]
    raw_logps: list[float]
    stopped: bool
    """False: it ran into max_new_tokens."""


class Gathering:
    """The part of a `generate` that one rank has: `group_size` responses to each of `prompts`."""

    def __init__(
        self,
        prompts: list[Prompt],
        group_size: int,
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
        """`expected` responses come to this rank, the same to each of the `size` ranks of its copy of the model: they take
        turns in calling `on_finish`, and rank 0 reports progress. `exchange` gives every rank the packed parts that make up
        the whole; None where each has all of it."""
        self.prompts, self.group_size, self.policy_version = prompts, group_size, policy_version
        self.tokenizer, self.on_finish, self.rank, self.size = tokenizer, on_finish, rank, size
        self.exchange = exchange
        self.meter = Meter(expected, on_progress if rank == 0 else None)
        self.made: dict[Key, Rollout] = {}

    def add(self, response: Response) -> None:
        text = "" if self.tokenizer is None else self.tokenizer.decode(response.token_ids, skip_special_tokens=True)
        rollout = Rollout(
            prompt=self.prompts[response.prompt],
            sample=response.sample,
            token_ids=response.token_ids,
            logps=response.logps,
            raw_logps=response.raw_logps,
            finish_reason="stop" if response.stopped else "length",
            policy_version=self.policy_version,
            text=text,
        )
        self.made[response.prompt, response.sample] = rollout
        self.meter.row()
        number = response.prompt * self.group_size + response.sample
        if self.on_finish is not None and number % self.size == self.rank:
            self.on_finish(rollout)

    def groups(self) -> Groups:
        """All rollouts, in the order of the prompts."""
        self.meter.report()
        made = self.made
        if self.exchange is not None:
            parts = self.exchange(pack(made))
            made = {key: one for part in parts for key, one in unpack(part, self.prompts)}
        return [[made[i, sample] for sample in range(self.group_size)] for i in range(len(self.prompts))]
