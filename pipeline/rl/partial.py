"""Partial rollouts (`rollout.partial_tokens`): no step waits for the longest response.

Twice as many groups as a step trains are under way. They are sampled in rounds of a few tokens for each response, until as
many groups as a step trains are whole. Those are trained, oldest first. The other groups stay, and their unfinished responses
continue after the update from the new weights; the tokens that they have keep the version and log-probs that sampled them.

A round ends at a number of tokens and not at a time, and a response's next tokens depend on its own tokens, stream and weights
alone. So what a step trains depends neither on speed nor on the layout, and a run that was killed repeats it.
"""

from collections.abc import Callable
from typing import Any

from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import ContinuingEngine, Groups, Rollout, Sampling, begin
from pipeline.rollout.packing import pack_groups, unpack_groups

BATCHES_UNDER_WAY = 2
"""Groups that are begun and not trained when sampling starts, in batches. With one, every batch would wait for its longest
response; more would make responses older."""


class UnderWay:
    """The groups that are begun and not yet trained. Every rank calls each method together."""

    def __init__(
        self, engine: ContinuingEngine, sampler: PromptSampler, group_size: int, sampling: Sampling, new_tokens: int
    ):
        """`new_tokens`: most tokens that a round adds to a response."""
        self.engine, self.sampler, self.group_size = engine, sampler, group_size
        self.sampling, self.new_tokens = sampling, new_tokens
        self.groups: Groups = []
        """In the order in which they were begun."""
        self.rounds = 0
        """Rounds for the newest batch."""

    def next(self, on_finish: Callable[[Rollout], None]) -> Groups:
        """Returns the oldest `prompts_per_step` whole groups, and begins as many new ones. `on_finish` gets each response that
        ends."""
        batch = self.sampler.prompts_per_step
        while len(self.groups) < BATCHES_UNDER_WAY * batch:
            self.groups += begin(self.sampler.next(), self.group_size)
        self.rounds = 0
        while len(whole := [i for i, group in enumerate(self.groups) if _is_whole(group)]) < batch:
            self.groups = self.engine.advance(self.groups, self.sampling, self.new_tokens, on_finish=on_finish)
            self.rounds += 1
        chosen = set(whole[:batch])
        trained = [self.groups[i] for i in sorted(chosen)]
        self.groups = [group for i, group in enumerate(self.groups) if i not in chosen]
        return trained

    def metrics(self) -> dict[str, float]:
        """How much is carried over the update, and the rounds of sampling of the newest batch."""
        carried = [r for group in self.groups for r in group if not r.is_finished]
        return {
            "rollout/carried": float(len(carried)),
            "rollout/carried_tokens": float(sum(len(r.token_ids) for r in carried)),
            "rollout/partial_rounds": float(self.rounds),
        }

    def state_dict(self) -> dict[str, Any]:
        """The groups, with all tokens and log-probs."""
        return pack_groups(self.groups)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them. Raises InputError if a prompt is no longer among the training prompts."""
        self.groups = unpack_groups(state, {prompt.id: prompt for prompt in self.sampler.prompts})


def _is_whole(group: list[Rollout]) -> bool:
    return all(rollout.is_finished for rollout in group)
