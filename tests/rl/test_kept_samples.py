"""What is kept of a step comes back whole, in bounded number, and steps are replayable from checkpoints alone."""

import os

import numpy as np
import pytest
import torch

from pipeline.common.errors import InputError
from pipeline.rl import kept_samples
from pipeline.rl.collector import StepBatch
from pipeline.rl.grading import Graded
from pipeline.rl.kept_samples import KeptStep, replayable
from pipeline.rollout.interface import Prompt, Rollout


def step_of(version: int) -> KeptStep:
    """Two groups of two; the second was sampled from newer weights, one response is empty."""
    groups = []
    for p in range(2):
        prompt = Prompt(id=f"p{p}", token_ids=[1, 2, p], gold=str(p), text=f"what is {p}? \ud800")
        groups.append(
            [
                Rollout(
                    prompt=prompt, sample=s, token_ids=list(range(p + s)), logps=[-0.1] * (p + s), raw_logps=[-0.2] * (p + s),
                    finish_reason="stop" if s else "length", policy_version=version + p, text=f"{p} {s}",
                    earlier=[(version - 1, 1)] * p,
                    experts=np.full((2 + p + s, 3, 2), 10 * p + s, np.uint8) if p + s else None,
                )
                for s in range(2)
            ]
        )  # fmt: skip
    rewards = torch.tensor([[0.1, 1.0], [0.0, 1.0]], dtype=torch.float64)
    return KeptStep(StepBatch(groups, Graded([], rewards, rewards.round())), {"seed": 0, "algo.alpha": 0.3}, True)


def test_a_step_comes_back_whole(tmp_path):
    kept = step_of(version=4)
    kept_samples.keep(tmp_path, 5, kept, newest=1)
    found = kept_samples.read(tmp_path, 5)
    assert found.settings == kept.settings
    assert found.sampled_elsewhere
    assert found.batch.graded.rewards.equal(kept.batch.graded.rewards)
    assert found.batch.graded.correct.equal(kept.batch.graded.correct)
    for group, wanted in zip(found.batch.groups, kept.batch.groups, strict=True):
        for one, other in zip(group, wanted, strict=True):
            as_fp32 = torch.tensor(other.logps, dtype=torch.float32).tolist()
            assert one.logps == as_fp32
            names = ("prompt", "sample", "token_ids", "finish_reason", "policy_version", "text", "earlier")
            assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
            assert np.array_equal(one.experts, other.experts)


def test_only_the_newest_stay_and_steps_that_are_made_again_go(tmp_path):
    for step in range(1, 6):
        kept_samples.keep(tmp_path, step, step_of(step - 1), newest=3)
    assert kept_samples.kept_steps(tmp_path) == [3, 4, 5]
    kept_samples.forget_after(tmp_path, 4)
    assert kept_samples.kept_steps(tmp_path) == [3, 4]
    torn = tmp_path / "samples" / ".step_0000005.pt.a1b2.tmp"  # as a kill within the write leaves it
    torn.touch()
    kept_samples.keep(tmp_path, 5, step_of(4), newest=3)
    assert not torn.exists()


class Command:
    """A pickle that makes a folder as it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("content", ["damage", "command"])
def test_a_file_that_is_damaged_or_would_run_a_command_is_refused(tmp_path, content):
    kept_samples.keep(tmp_path, 3, step_of(2), newest=3)
    file = tmp_path / "samples" / "step_0000003.pt"
    if content == "damage":
        file.write_bytes(b"PK")
    else:
        torch.save({"groups": Command(tmp_path / "marker")}, file)
    with pytest.raises(InputError, match=r"step_0000003\.pt cannot be read"):
        kept_samples.read(tmp_path, 3)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("kept", "checkpoints", "possible"),
    [
        ([1, 2, 3], [0], {1: 0, 2: 0, 3: 0}),
        ([5, 6, 7, 8], [0, 4, 6], {5: 4, 6: 4, 7: 6, 8: 6}),
        ([6, 7], [0, 4], {}),
        ([5, 7], [4], {5: 4}),
        ([], [0, 4], {}),
    ],
)
def test_a_step_needs_a_checkpoint_and_all_steps_since(kept, checkpoints, possible):
    assert replayable(kept, checkpoints) == possible
