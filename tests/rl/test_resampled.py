"""Where two samplings of the same prompts part."""

from pipeline.rl.resampled import compare
from pipeline.rollout.interface import Prompt, Rollout


def response(tokens, logps=None, sample=0, name="a"):
    logps = logps or [-1.0] * len(tokens)
    return Rollout(
        prompt=Prompt(id=name, token_ids=[1], gold="2"), sample=sample, token_ids=tokens, logps=logps, raw_logps=logps,
        finish_reason="stop", policy_version=3,
    )  # fmt: skip


def test_equal_responses_are_equal_to_the_bit():
    groups = [[response([1, 2]), response([3], sample=1)]]
    found = compare(groups, groups)
    assert (found.responses, found.same, found.largest_gap, found.first) == (2, 2, 0.0, None)
    assert found.text.endswith("log-probs equal to the bit")


def test_the_first_difference_is_named_and_later_log_probs_do_not_count():
    then = [[response([1, 2, 3], [-1.0, -1.0, -1.0])], [response([5, 6], name="b"), response([7], sample=1, name="b")]]
    now = [
        [response([1, 2, 3], [-1.0, -1.5, -1.0])],
        [response([5, 8], [-1.0, -9.0], name="b"), response([7, 7], sample=1)],
    ]
    found = compare(then, now)
    assert (found.responses, found.same) == (3, 1)
    assert found.largest_gap == 0.5
    assert found.first == "b, sample 0, token 2"
