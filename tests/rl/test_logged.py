"""What is logged of rollouts: the age of the weights that sampled each token, the gap by it, and lengths."""

import math
from types import SimpleNamespace

import pytest
import torch

from pipeline.rl.checks import lags_of, samples_of
from pipeline.rl.collector import StepBatch
from pipeline.rl.experience import Samples
from pipeline.rl.grading import Graded
from pipeline.rollout.gap import gap_by_lag
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.verify.types import Grade


def response(version: int, tokens: int) -> Rollout:
    return Rollout(
        prompt=Prompt("p", [1], "2"), sample=0, token_ids=[5] * tokens, logps=[-1.0] * tokens, raw_logps=[-1.0] * tokens,
        finish_reason="stop", policy_version=version,
    )  # fmt: skip


def test_a_token_has_the_age_of_its_response():
    groups = [[response(7, 2), response(6, 3)], [response(5, 0), response(6, 1)]]
    batch, samples = StepBatch(groups, None), Samples.collect(groups)
    assert lags_of(batch, samples, version=7).tolist() == [0, 0, 1, 1, 1, 1]
    assert lags_of(batch, samples.select(torch.tensor([1, 3])), version=8).tolist() == [2, 2, 2, 2]


def test_the_gap_by_age():
    old = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    engine = torch.tensor([-1.5, -2.0, -3.1, -math.inf, -5.3])
    found = gap_by_lag(old, engine, torch.tensor([0, 0, 1, 1, 1]))
    assert found == {
        "rollout/lag_0_tokens": pytest.approx(0.4), "gap/lag_0_mean": pytest.approx(0.25),
        "rollout/lag_1_tokens": pytest.approx(0.6), "gap/lag_1_mean": pytest.approx(0.2, abs=1e-6),
    }  # fmt: skip
    assert gap_by_lag(old, engine, torch.zeros(5, dtype=torch.int64)) == {}


def test_a_kept_sample_says_how_many_tokens_it_has():
    groups = [[response(0, 4), response(0, 0)]]
    grade = Grade(correct=True, extracted="2", reason="equal")
    graded = Graded([[grade, grade]], torch.ones(1, 2), torch.ones(1, 2))
    (row,) = samples_of(StepBatch(groups, graded), SimpleNamespace(advantages=torch.zeros(2)), count=1)
    assert [kept["tokens"] for kept in row["responses"]] == [4, 0]
