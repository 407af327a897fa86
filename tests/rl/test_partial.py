"""Groups under way: which are trained, which stay, and what a resumed run has of them.

The engine implements the real interface, but a response's length is known in advance, so the right contents of a batch are
known by hand. The native engine's rounds are tested in tests/engines, whole runs in tests/stages.
"""

import io
from dataclasses import replace

import pytest
import torch

from pipeline.rl.partial import UnderWay
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import Groups, Prompt, Rollout, Sampling

GROUP, ROUND, LONGEST = 2, 4, 20


class LengthsEngine:
    """A response to prompt i has `lengths[i]` tokens; a token says which weights sampled it, and its place."""

    def __init__(self, lengths: list[int]):
        self.lengths, self.policy_version, self.sampled = lengths, 0, 0

    def advance(self, groups: Groups, sampling, new_tokens, *, on_finish=None, on_progress=None) -> Groups:
        return [[r if r.is_finished else self._more(r, new_tokens, on_finish) for r in group] for group in groups]

    def _more(self, before: Rollout, new_tokens: int, on_finish) -> Rollout:
        had, whole = len(before.token_ids), self.lengths[before.prompt.token_ids[0]]
        made = min(new_tokens, whole - had)
        self.sampled += made
        earlier = list(before.earlier)
        if had and before.policy_version != self.policy_version:
            earlier.append((before.policy_version, had - sum(count for _, count in earlier)))
        tokens = before.token_ids + [100 * self.policy_version + had + i for i in range(made)]
        after = replace(
            before, token_ids=tokens, logps=[-0.5] * len(tokens), raw_logps=[-0.5] * len(tokens), earlier=earlier,
            policy_version=self.policy_version, finish_reason="stop" if had + made == whole else "unfinished",
        )  # fmt: skip
        if on_finish is not None and after.is_finished:
            on_finish(after)
        return after


def under_way(lengths: list[int]) -> UnderWay:
    prompts = [Prompt(id=f"p{i}", token_ids=[i], gold="") for i in range(len(lengths))]
    sampler = PromptSampler(prompts, 2, seed=0)
    return UnderWay(LengthsEngine(lengths), sampler, GROUP, Sampling(max_new_tokens=LONGEST), ROUND)


def keys(groups: Groups) -> list[tuple[str, int]]:
    return [(group[0].prompt.id, group[0].prompt.occurrence) for group in groups]


def train(made: UnderWay, steps: int) -> list[Groups]:
    batches = []
    for _ in range(steps):
        batches.append(made.next(lambda rollout: None))
        made.engine.policy_version += 1
    return batches


def test_a_long_response_holds_no_step_and_is_trained_when_it_is_whole():
    made = under_way([3, 3, 3, 18, 3, 3])
    order = [prompt.token_ids[0] for prompt in PromptSampler(made.sampler.prompts, 6, seed=0).next()]
    long = order.index(3)
    assert long < 4, "this seed begins with the long one"
    (first,) = train(made, 1)
    assert keys(first) == [(f"p{i}", 0) for i in order[:4] if i != 3][:2]
    assert made.rounds == 1
    assert made.metrics() == {"rollout/carried": 2.0, "rollout/carried_tokens": 8.0, "rollout/partial_rounds": 1.0}
    batches = train(made, 6)
    (trained,) = [
        group for batch in batches for group in batch if group[0].prompt.id == "p3" and not group[0].prompt.occurrence
    ]
    for rollout in trained:
        versions = rollout.token_versions
        assert len(rollout.token_ids) == 18
        assert versions == sorted(versions)
        assert len(set(versions)) > 2
        assert rollout.token_ids == [100 * version + i for i, version in enumerate(versions)]


def test_nothing_is_lost_or_trained_twice():
    made = under_way([1, 20, 5, 4, 13, 9, 8])
    ended: list[tuple[str, int, int]] = []
    batches = []
    for _ in range(12):
        batches.append(made.next(lambda r: ended.append((r.prompt.id, r.prompt.occurrence, r.sample))))
        made.engine.policy_version += 1
    trained = [key for batch in batches for key in keys(batch)]
    assert [len(batch) for batch in batches] == [2] * 12
    assert len({*trained}) == len(trained)
    begun = [made.sampler._at(i) for i in range(made.sampler.taken)]
    assert sorted(trained + keys(made.groups)) == sorted((prompt.id, prompt.occurrence) for prompt in begun)
    rollouts = [r for batch in [*batches, made.groups] for group in batch for r in group]
    assert sum(len(r.token_ids) for r in rollouts) == made.engine.sampled
    assert sorted(ended) == sorted((r.prompt.id, r.prompt.occurrence, r.sample) for r in rollouts if r.is_finished)


@pytest.mark.parametrize("step", range(1, 6))
def test_a_resumed_run_has_what_was_under_way(step):
    lengths = [1, 20, 5, 4, 13]
    straight = train(under_way(lengths), 9)
    made = under_way(lengths)
    train(made, step)
    saved = io.BytesIO()
    torch.save({"sampler": made.sampler.state_dict(), "under_way": made.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved)  # as a checkpoint reads it: only tensors and plain values
    again = under_way(lengths)
    again.sampler.load_state_dict(state["sampler"])
    again.load_state_dict(state["under_way"])
    again.engine.policy_version = step
    assert train(again, 9 - step) == straight[step:]
