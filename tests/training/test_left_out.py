"""A response whose advantage is 0 moves nothing, so an update leaves it out and must come to the same weights.

Why they are equal: each token's loss is `weight * A * (...)`. With A = 0 and no KL or entropy term the token adds exactly 0
to loss and gradient. Its only effect is on the denominator, which is counted from the whole step. So the sums differ in
rounding only (micro-batches hold other sequences), and so does the AdamW step, also if a rank or a whole minibatch has
nothing left.
"""

from pathlib import Path

import pytest
import torch
from experiences import random_experience
from ranks import run_ranks

from pipeline.objectives import losses
from pipeline.objectives.losses import registry
from pipeline.objectives.metrics.token import left_out
from pipeline.rl.advantages import advantages_of
from pipeline.rl.checks import entropy_metric
from pipeline.rl.experience import Experience, Samples
from pipeline.settings import Algo

SCRIPT = Path(__file__).with_name("left_out_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_update_without_them_is_the_same(world_size):
    run_ranks(world_size, SCRIPT, world_size, timeout=240)


def test_every_published_loss_may_leave_them_out_and_an_unknown_one_may_not(tmp_path):
    assert all(losses.get(name).needs_signal for name in losses.names())
    file = tmp_path / "plain.py"
    file.write_text("def distill(x, config):\n    return -x.logp\n")
    assert not losses.of(Algo(import_path=f"{file}:distill")).needs_signal


def test_a_loss_that_claims_it_wrongly_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))
    file = tmp_path / "wrong.py"
    file.write_text(
        "from pipeline.objectives.losses import register\n"
        "@register('wrong', needs_signal=True)\ndef wrong(x, config):\n    return -x.logp\n"
    )
    with pytest.raises(Exception, match="not 0 where the advantage is 0"):
        losses.of(Algo(import_path=f"{file}:wrong"))


REWARDS = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)


def samples_of(lengths: list[int]) -> Samples:
    whole = random_experience(50, prompts=3, group=3, given_lengths=lengths)
    return whole.select(torch.arange(9))


def test_scored_are_live_groups_and_one_response_of_each_other_group():
    samples = samples_of([0, 4, 5, 3, 2, 1, 6, 7, 8])
    signal, _ = advantages_of(Algo(), samples, REWARDS)
    assert signal.scored(everything=False).tolist() == [1, 3, 4, 5, 6]  # the first response of group 0 is empty
    assert signal.scored(everything=True).tolist() == list(range(9))
    few = samples.select(signal.scored(everything=False))
    weights = signal.token_weights(few)
    assert weights.tolist() == [9 / 4] * 4 + [1.0] * 6 + [21 / 6] * 6
    assert weights.sum().item() == pytest.approx(36.0)  # all response tokens of the step
    entropy = torch.tensor([2.0] * 4 + [1.0] * 6 + [0.5] * 6)
    assert entropy_metric(entropy, weights)["policy/entropy"] == pytest.approx((9 * 2 + 6 * 1 + 21 * 0.5) / 36)


def test_an_experience_holds_each_tokens_own_log_prob():
    samples = samples_of([2, 4, 5, 3, 2, 1, 6, 7, 8])
    signal, _ = advantages_of(Algo(), samples, REWARDS)
    few = samples.select(signal.scored(everything=False))
    old = torch.arange(float(few.offsets[-1]))
    experience = Experience.of(few, signal, old, old + 100, everything=False)
    assert experience.index.tolist() == [3, 4, 5]
    assert experience.old_logp.tolist() == [2, 3, 4, 5, 6, 7]  # behind the two tokens of the first group's response
    assert experience.ref_logp.tolist() == [102, 103, 104, 105, 106, 107]
    assert experience.responses == samples.responses[3:6]
    assert experience.rows_of(torch.tensor([0, 4, 5, 8])).tolist() == [1, 2]


def test_their_tokens_are_counted_by_pass_rate():
    counts = left_out(torch.tensor([3, 4, 5]), torch.tensor([0.0, 1.0, 0.5]))
    assert counts["tokens"] == 12
    assert [counts[f"tokens_{low:.1f}-{low + 0.2:.1f}"] for low in (0, 0.2, 0.4, 0.6, 0.8)] == [3, 0, 5, 0, 4]
