"""What is logged of rollouts: the age of the weights that sampled each token, the gap by it, and lengths."""

import math
from types import SimpleNamespace

import pytest
import torch

from pipeline.rl.checks import lag_metrics, lags_of, samples_of
from pipeline.rl.collector import StepBatch
from pipeline.rl.experience import Samples
from pipeline.rl.grading import Graded
from pipeline.rollout.gap import GapError, gap_by_lag, gap_metrics
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.settings import Rollout as RolloutSettings
from pipeline.verify.types import Grade


def response(version: int, tokens: int, earlier: list[tuple[int, int]] | None = None) -> Rollout:
    return Rollout(
        prompt=Prompt("p", [1], "2"), sample=0, token_ids=[5] * tokens, logps=[-1.0] * tokens, raw_logps=[-1.0] * tokens,
        finish_reason="stop", policy_version=version, earlier=earlier or [],
    )  # fmt: skip


def test_a_token_has_the_age_of_its_response():
    groups = [[response(7, 2), response(6, 3)], [response(5, 0), response(6, 1)]]
    batch, samples = StepBatch(groups, None), Samples.collect(groups)
    assert lags_of(batch, samples, version=7).tolist() == [0, 0, 1, 1, 1, 1]
    assert lags_of(batch, samples.select(torch.tensor([1, 3])), version=8).tolist() == [2, 2, 2, 2]


def test_tokens_of_one_response_can_have_several_ages():
    groups = [[response(7, 5, earlier=[(4, 2), (6, 1)]), response(7, 0)], [response(7, 1), response(7, 0)]]
    batch, samples = StepBatch(groups, None), Samples.collect(groups)
    assert lags_of(batch, samples, version=7).tolist() == [3, 3, 1, 0, 0, 0]
    assert lag_metrics(batch, version=7) == {"rollout/version_lag_mean": 7 / 6, "rollout/version_lag_max": 3.0}
    assert lag_metrics(StepBatch([[response(7, 0)]], None), version=9)["rollout/version_lag_max"] == 0


def test_the_gap_is_checked_where_engine_and_actor_had_the_same_weights():
    actor, engine = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -3.0, -1.1])
    fresh = torch.tensor([True, False, True])
    found = gap_metrics(RolloutSettings(gap_limit=1.1), actor, engine, engine, fresh)
    assert found["gap/checked_mean_exp"] == pytest.approx((1 + math.exp(0.1)) / 2)
    with pytest.raises(GapError, match="response token 2 of the batch"):
        gap_metrics(RolloutSettings(gap_limit=1.05), actor, engine, engine, fresh)
    stale = gap_metrics(RolloutSettings(gap_limit=1.05), actor, engine, engine, torch.zeros(3, dtype=torch.bool))
    assert stale["gap/checked_mean_exp"] == pytest.approx((1 + math.exp(2) + math.exp(0.1)) / 3)


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
