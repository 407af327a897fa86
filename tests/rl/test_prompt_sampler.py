"""Prompts that come again: another epoch, a batch across two epochs, more prompts a step than there are."""

from collections import Counter

import torch

from megatron_patches.engines.native.sampler import uniforms
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import Prompt
from pipeline.rollout.streams import request_key

PROMPTS = [Prompt(id=f"p{i}", token_ids=[i + 1], gold="") for i in range(3)]


def test_a_prompt_that_is_twice_in_a_batch_gets_other_responses():
    """Before, both groups were the same to the byte."""
    batch = PromptSampler(PROMPTS, prompts_per_step=7, seed=0).next()
    assert sorted(Counter(prompt.id for prompt in batch).values()) == [2, 2, 3]
    streams = [prompt.stream for prompt in batch]
    assert len(set(streams)) == 7
    keys = torch.tensor([request_key(0, stream, 0, 5) for stream in streams])
    assert len({tuple(row) for row in uniforms(keys, 4).tolist()}) == 7


def test_the_first_occurrence_has_the_stream_of_its_id():
    batch = PromptSampler(PROMPTS, prompts_per_step=3, seed=0).next()
    assert all(prompt.stream == prompt.id for prompt in batch)


def test_a_resumed_sampler_gives_the_same_occurrences():
    sampler = PromptSampler(PROMPTS, prompts_per_step=2, seed=1)
    sampler.next()
    state = sampler.state_dict()
    later = [sampler.next() for _ in range(4)]
    resumed = PromptSampler(PROMPTS, prompts_per_step=2, seed=1)
    resumed.load_state_dict(state)
    assert [resumed.next() for _ in range(4)] == later
    assert max(prompt.occurrence for batch in later for prompt in batch) == 3
