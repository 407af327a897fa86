"""The offline stage's display with a clock that the test moves: samples of all copies, tokens per second, time left.

The numbers must be exact at the end of every wave, and count only the work of this start. Within a wave they are
estimated from one copy. tests/stages/test_rollout.py tests that the stage shows them on a terminal.
"""

import io

from pipeline.rollout.interface import GenerationProgress, Prompt, Rollout
from pipeline.rollout.progress import OfflineProgress


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def groups(samples: int, tokens: int) -> list[list[Rollout]]:
    prompt = Prompt(id="p", token_ids=[1], gold="1")
    made = Rollout(
        prompt=prompt, sample=0, token_ids=[1] * tokens, logps=[], raw_logps=[], finish_reason="stop", policy_version=0
    )
    return [[made] * samples]


def waves(total: int, done: int, count: int, samples: int, copies: int) -> list[str]:
    """Returns the lines of `count` waves of `samples` samples with 10 tokens each. A wave takes 4 s: half of each
    copy's rows are done after 2 s, all after 3 s, and grading and writing take 1 s."""
    clock, out = Clock(), io.StringIO()
    with OfflineProgress(total, done, clock=clock, stream=out) as display:
        for _ in range(count):
            display.begin(samples)
            share = samples // copies
            for seconds, rows in ((2, share // 2), (1, share)):
                clock.now += seconds
                display.show(GenerationProgress(rows, share, rows * 10, seconds=99.0))
            clock.now += 1
            display.end(groups(samples, 10))
        summary = display.summary()
    return [*out.getvalue().splitlines(), summary]


def test_one_copy_estimates_all_and_a_wave_is_done_when_it_is_written():
    expected = waves(total=160, done=0, count=4, samples=40, copies=1)
    assert waves(total=160, done=0, count=4, samples=40, copies=2) == expected
    assert expected[:7] == [
        "rollout  20/160  100 tokens/s  14 s left",
        "rollout  39/160  133 tokens/s  9.3 s left",  # as fast as 39 in 3 s; a wave takes 4
        "rollout  60/160  100 tokens/s  10 s left",
        "rollout  79/160  114 tokens/s  8.1 s left",  # from here on 4 s a wave
        "rollout 100/160  100 tokens/s  6.0 s left",
        "rollout 119/160  109 tokens/s  4.1 s left",
        "rollout 140/160  100 tokens/s  2.0 s left",
    ]
    assert expected[-3:] == [
        "rollout 160/160  100 tokens/s  0.0 s left",
        "rollout: 160 samples in 16 s",
        "1,600 tokens, 100 tokens/s",
    ]


def test_the_speed_leaves_out_the_work_of_an_earlier_start():
    lines = waves(total=160, done=80, count=2, samples=40, copies=2)
    assert lines[0] == "rollout 100/160  100 tokens/s  6.0 s left"
    assert lines[-3:] == [
        "rollout 160/160  100 tokens/s  0.0 s left",
        "rollout: 80 samples in 8.0 s",
        "800 tokens, 100 tokens/s",
    ]


def test_nothing_left_to_do_shows_nothing():
    assert waves(total=160, done=160, count=0, samples=40, copies=1) == [""]
