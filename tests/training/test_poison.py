"""A number that is not finite on one rank costs one skipped step on all of them, and nothing else.

What must hold: weights, fp32 masters and Adam's moments are the same to the bit before and after a skipped step, on each
rank of data-, tensor-, pipeline- and context-parallel pairs, with and without the distributed optimizer. A rank that stepped
alone would differ from its peers for ever. After three in a row every rank ends with the same message.
"""

from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from pipeline.rl.checks import CollapseWatch, SkipWatch, mean_metrics
from pipeline.rollout.gap import GapError, gap_metrics
from pipeline.settings import Rollout

SCRIPT = Path(__file__).with_name("poison_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_is_not_finite_on_one_rank_is_skipped_on_all(world_size):
    run_ranks(world_size, SCRIPT, world_size, timeout=180)


@pytest.mark.parametrize("rollout", [Rollout(), Rollout(top_p=0.9, temperature=0.7)])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_log_probs_of_the_actor_that_are_not_finite_are_an_error(rollout, number):
    good = torch.full((5,), -1.0)
    bad = good.clone()
    bad[3] = number
    with pytest.raises(GapError, match="1 of 5 response tokens, the first is token 3"):
        gap_metrics(rollout, bad, good, good)
    with pytest.raises(GapError, match="5 of 5"):
        gap_metrics(
            rollout, torch.full((5,), number), good, good, same_weights=torch.zeros(len(good), dtype=torch.bool)
        )


def test_a_skipped_step_leaves_the_mean_of_the_others():
    rows = [{"optim/grad_norm": 2.0, "optim/skipped": 0.0}, {"optim/grad_norm": float("nan"), "optim/skipped": 1.0}]
    assert mean_metrics(rows) == {"optim/grad_norm": 2.0, "optim/skipped": 0.5}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"policy/entropy": 4.15, "reward/mean": 0.5}, "at its maximum of 4.16"),
        ({"policy/entropy": 1e-5, "reward/mean": 0.5}, "about zero"),
        ({"policy/entropy": 2.0, "reward/mean": -1.0}, "reward/mean is at its minimum of -1"),
    ],
)
def test_a_collapse_is_said_once(metrics, said):
    watch = CollapseWatch(vocab_size=64, reward_min=-1.0)
    healthy = {"policy/entropy": 2.0, "reward/mean": 0.5}
    rows = [metrics] * 9 + [healthy] + [metrics] * 30
    warnings = [text for row in rows for text in watch.see(row)]
    assert len(warnings) == 1
    assert said in warnings[0]


def test_skipped_optimizer_steps_are_said_when_they_begin():
    watch = SkipWatch()
    said = [watch.see(step, {"optim/skipped": share}) for step, share in enumerate([0.0, 0.5, 1.0, 0.0, 1.0], start=1)]
    assert [len(texts) for texts in said] == [0, 1, 0, 0, 1]
    assert said[1][0].startswith("WARNING: step 2: 50% of its optimizer steps were skipped")
