"""Batches for the RL loop: rounds of dynamic sampling, sampling a step ahead, resuming, and early grades.

The engine implements the real interface, but answers from a table instead of a model, so the right contents of a batch
are known by hand. The verifier is the real pool.
"""

import io
import threading
from types import SimpleNamespace

import pytest
import torch

from pipeline.common.errors import InputError
from pipeline.rl.checks import lag_metrics
from pipeline.rl.collector import Collector
from pipeline.rl.grading import Grader
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import Prompt, Rollout, Sampling
from pipeline.run.compose import compose
from pipeline.tracking import Tracker

GROUP = 4


class TableEngine:
    """Answers the first `right[prompt.id]` samples of a group correctly; rollouts carry its `policy_version`."""

    def __init__(self, right: dict[str, int], independent: bool = False):
        self.right, self.independent, self.policy_version = right, independent, 0
        self.calls: list[tuple[list[str], int, int]] = []
        """Prompt ids, version and thread of each `generate`."""

    def generate(self, prompts, group_size, sampling, *, on_finish=None, on_progress=None):
        self.calls.append(([p.id for p in prompts], self.policy_version, threading.get_ident()))
        groups = []
        for prompt in prompts:
            group = []
            for sample in range(group_size):
                answer = prompt.gold if sample < self.right[prompt.id] else f"{prompt.gold}1"
                rollout = Rollout(
                    prompt=prompt, sample=sample, token_ids=[1, 2, sample], logps=[-0.5] * 3, raw_logps=[-0.5] * 3,
                    finish_reason="stop", policy_version=self.policy_version, text=f"\\boxed{{{answer}}}",
                )  # fmt: skip
                group.append(rollout)
                if on_finish is not None:
                    on_finish(rollout)
            groups.append(group)
        return groups

    def sync(self, actor, policy_version):
        self.policy_version = policy_version
        return {}


@pytest.fixture(scope="module")
def graders():
    made = {}

    def of(settings):
        key = settings.algo.dynamic_sampling
        return made.setdefault(key, Grader(settings.verify, settings.rollout.max_new_tokens))

    yield of
    for grader in made.values():
        grader.pool.close()


@pytest.fixture
def build(tmp_path, graders):
    opened = []

    def make(right: list[int], *arguments: str, independent: bool = False):
        settings = compose(
            [
                "stage=rl",
                "model=tiny",
                "rl.prompts_per_step=2",
                f"rl.group_size={GROUP}",
                "verify.workers=1",
                *arguments,
            ]
        )
        prompts = [Prompt(id=f"p{i}", token_ids=[i + 1], gold=str(i + 10)) for i in range(len(right))]
        engine = TableEngine({f"p{i}": count for i, count in enumerate(right)}, independent)
        sampler = PromptSampler(prompts, settings.rl.prompts_per_step, seed=0)
        tracker = Tracker(tmp_path, total_steps=1, enabled=False)
        collector = Collector(
            settings.rl, sampler, engine, graders(settings), Sampling(max_new_tokens=8), tracker,
            settings.algo.dynamic_sampling,
        )  # fmt: skip
        opened.append(collector)
        return SimpleNamespace(collector=collector, engine=engine, sampler=sampler)

    yield make
    for collector in opened:
        collector.close()


def ids(batch) -> list[str]:
    return [group[0].prompt.id for group in batch.groups]


def test_a_batch_holds_the_samplers_prompts_with_their_grades(build):
    made = build([0, 1, 2, 3])
    batch = made.collector.next()
    assert ids(batch) == made.engine.calls[0][0]
    for prompt_id, correct in zip(ids(batch), batch.graded.correct.tolist(), strict=True):
        right = made.engine.right[prompt_id]
        assert correct == [1.0] * right + [0.0] * (GROUP - right)
    assert lag_metrics(batch, version=0)["rollout/version_lag_max"] == 0


def test_dynamic_sampling_continues_until_the_batch_is_full_of_mixed_groups(build):
    made = build([0, 0, 0, 2, 4, 0, 1, 0], "algo.dynamic_sampling=true", "rl.dynamic_sampling_rounds=4")
    batch = made.collector.next()
    assert sorted(ids(batch)) == ["p3", "p6"]
    assert len(made.engine.calls) == made.collector.rounds <= 4


def test_a_batch_without_any_mixed_group_says_what_to_do(build):
    made = build([0, 4, 0, 4, 0, 0], "algo.dynamic_sampling=true", "rl.dynamic_sampling_rounds=3")
    found = (
        r"No usable groups: in 3 rounds of 2 prompts \(4 groups all wrong, 2 all right\) .*_rounds=6\. "
        r".*min_pass_rate=0 "
    )
    with pytest.raises(InputError, match=found):
        made.collector.next()
    assert len(made.engine.calls) == 3


def test_a_short_batch_is_reported_once(build, capsys):
    made = build([0, 4, 2, 0], "algo.dynamic_sampling=true", "rl.dynamic_sampling_rounds=2")
    made.collector.tracker.enabled = True
    assert ids(made.collector.next()) == ["p2"]
    out = capsys.readouterr().out
    assert "2 rounds of 2 prompts (2 groups all wrong, 1 all right) gave 1 of 2 usable groups" in out
    made.collector.next()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("independent", [False, True])
def test_the_batch_ahead_is_sampled_from_the_weights_before_the_update(build, independent):
    made = build([1] * 8, "rl.async_depth=1", independent=independent)
    first = made.collector.next()
    made.collector.look_ahead(steps_left=1)
    made.collector.wait()
    made.engine.sync(None, 1)  # the update of step 1
    second = made.collector.next()
    assert lag_metrics(first, version=0)["rollout/version_lag_max"] == 0
    assert lag_metrics(second, version=1)["rollout/version_lag_mean"] == 1
    assert ids(second) == made.engine.calls[1][0]
    elsewhere = made.engine.calls[1][2] != threading.get_ident()
    assert elsewhere == independent


@pytest.mark.parametrize("independent", [False, True])
def test_a_batch_is_at_most_async_depth_steps_old(build, independent):
    made = build([1] * 8, "rl.async_depth=3", independent=independent)
    lags, order, steps = [], [], 7
    for step in range(1, steps + 1):
        batch = made.collector.next()
        made.collector.look_ahead(steps_left=steps - step)
        lags.append([lag_metrics(batch, version=step - 1)[f"rollout/version_lag_{name}"] for name in ("mean", "max")])
        order.append(ids(batch))
        made.collector.wait()
        made.engine.sync(None, step)
    assert lags == [[0, 0], [1, 1], [2, 2], [3, 3], [3, 3], [3, 3], [3, 3]]
    assert order == [call[0] for call in made.engine.calls]  # used in the order of sampling, and none is left over


def test_rounds_of_one_step_come_from_the_queue(build):
    made = build([0, 0, 0, 2, 4, 0, 1, 0], "algo.dynamic_sampling=true", "rl.async_depth=2")
    made.collector.look_ahead(steps_left=5)
    made.engine.sync(None, 1)
    batch = made.collector.next()
    assert sorted(ids(batch)) == ["p3", "p6"]
    assert [call[1] for call in made.engine.calls] == [0, 0] + [1] * (made.collector.rounds - 2)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_resumed_run_trains_on_the_batches_that_were_sampled_ahead(build, depth):
    right, steps = [0, 1, 2, 3, 1, 2], 6

    def train(made, steps_left):
        found = []
        for left in range(steps_left - 1, -1, -1):
            found.append(made.collector.next())
            made.collector.look_ahead(left)
            made.engine.sync(None, made.engine.policy_version + 1)
        return found

    made = build(right, f"rl.async_depth={depth}")
    made.collector.next()
    made.collector.look_ahead(steps - 1)
    made.engine.sync(None, 1)
    saved = io.BytesIO()
    torch.save(made.collector.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved)  # as a checkpoint reads it: only tensors and plain values
    expected = train(made, steps - 1)

    again = build(right, f"rl.async_depth={depth}")
    again.engine.sync(None, 1)
    again.collector.load_state_dict(state)
    found = train(again, steps - 1)
    # What was in the queue was not sampled again.
    assert [call[0] for call in again.engine.calls] == [ids(batch) for batch in expected[depth:]]
    for a, b in zip(expected, found, strict=True):
        assert a.groups == b.groups
        assert a.graded.rewards.equal(b.graded.rewards)


def test_a_batch_ahead_with_unknown_prompts_is_an_error(build):
    made = build([1] * 4, "rl.async_depth=1")
    made.collector.look_ahead(steps_left=1)
    state = made.collector.state_dict()
    other = build([1] * 4, "rl.async_depth=1")
    for i, prompt in enumerate(other.sampler.prompts):
        other.sampler.prompts[i] = Prompt(id=f"q{i}", token_ids=prompt.token_ids, gold=prompt.gold)
    with pytest.raises(InputError, match="no longer among the training prompts"):
        other.collector.load_state_dict(state)


def test_metrics_count_the_gradings_since_the_last_call(build):
    made = build([1] * 4)
    grader = made.collector.grader
    made.collector.next()
    grader.metrics()
    made.collector.next()
    counted = grader.metrics()
    # Two texts for each of two prompts; equal ones are graded once.
    assert counted["graded"] + counted["cache_hits"] >= 4
    assert counted["timeouts"] == 0
    assert grader.metrics()["graded"] == 0


def test_the_verifier_sees_the_problem_and_what_the_length_limit_left() -> None:
    settings = compose(["stage=rl", "model=tiny", "verify.workers=1"])
    prompt = Prompt(id="p", token_ids=[1], gold=r"6\sqrt{2}", text=r"Simplify $\sqrt{72}$.")

    def rollout(text: str, finish_reason: str = "stop") -> Rollout:
        return Rollout(
            prompt=prompt, sample=0, token_ids=[1], logps=[-0.5], raw_logps=[-0.5], finish_reason=finish_reason,
            policy_version=0, text=text,
        )  # fmt: skip

    group = [
        rollout(r"\boxed{6\sqrt2}"),
        rollout(r"\boxed{\sqrt{72}}"),
        rollout(r"The answer is $6\sqrt2$."),
        rollout(r"The answer is $6\sqrt2$.", "length"),
        rollout(r"\boxed{6\sqrt2", "length"),
        rollout(r"\boxed{6\sqrt2}. Let me check: \boxed{6", "length"),
    ]
    with Grader(settings.verify, settings.rollout.max_new_tokens) as grader:
        assert grader.grade([group]).correct.tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0, 1.0]]
    with Grader(settings.verify.model_copy(update={"form": "equal"}), settings.rollout.max_new_tokens) as grader:
        assert grader.grade([group[:2]]).correct.tolist() == [[1.0, 1.0]]
