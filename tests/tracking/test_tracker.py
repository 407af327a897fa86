"""What is on disk after every kind of end, and what the console shows."""

import io
import json
import os

import numpy as np
import pytest

from pipeline.common.files import read_jsonl
from pipeline.tracking import Tracker
from pipeline.tracking.tracker import figures

HISTOGRAM = {"edges": [0.0, 1.0, 2.0], "counts": [3.0, 1.0]}


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def tracker_of(root, total=10, **options):
    return Tracker(root, total, stream=io.StringIO(), **options)


def _fail_within(tracker, clock):
    with tracker.phase("update"):
        clock.now += 4
        raise RuntimeError


def rows_of(root, name="metrics.jsonl"):
    return list(read_jsonl(root / name))


def steps_of(root, name="metrics.jsonl"):
    return [row["step"] for row in rows_of(root, name)]


def test_rows_are_strict_json(tmp_path):
    with tracker_of(tmp_path) as tracker:
        tracker.log(1, {
            "a/nan": float("nan"), "a/inf": np.float32("inf"), "a/numpy": np.float32(0.5), "a/count": np.int64(3),
            "hist/x": {"edges": np.array([0.0, 1.0]), "counts": [np.nan]},
        })  # fmt: skip

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row["a/nan"] is row["a/inf"] is None
    assert (row["a/numpy"], row["a/count"]) == (0.5, 3)
    assert row["hist/x"] == {"edges": [0.0, 1.0], "counts": [None]}


def test_torch_numbers_are_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    with tracker_of(tmp_path) as tracker:
        row = tracker.log(1, {"a/x": torch.tensor(0.25), "a/y": torch.tensor(float("nan"))})
    assert (row["a/x"], row["a/y"]) == (0.25, None)


def test_phases_add_up_until_the_next_row(tmp_path):
    clock = Clock()
    with tracker_of(tmp_path, clock=clock) as tracker:
        for seconds in (2.0, 1.0):
            with tracker.phase("generate"):
                clock.now += seconds
        with pytest.raises(RuntimeError):
            _fail_within(tracker, clock)
        clock.now += 1
        first = tracker.log(1, {})
        clock.now += 0.5
        second = tracker.log(2, {})
    assert first == {"step": 1, "seconds/generate": 3.0, "seconds/update": 4.0, "seconds/step": 8.0}
    assert second == {"step": 2, "seconds/step": 0.5}


def test_tokens_a_second_follow_from_tokens_and_time(tmp_path):
    clock = Clock()
    with tracker_of(tmp_path, clock=clock) as tracker:
        with tracker.phase("generate"):
            clock.now += 2
        clock.now += 2
        row = tracker.log(1, {"speed/generated_tokens": 1000.0})
        assert (row["speed/tokens_per_s"], row["speed/rollout_tokens_per_s"]) == (250.0, 500.0)
        clock.now += 1
        row = tracker.log(2, {"speed/generated_tokens": 1000.0, "speed/tokens_per_s": 3.0})
        assert row["speed/tokens_per_s"] == 3.0  # a given value is kept
        assert "speed/rollout_tokens_per_s" not in row


def test_a_resumed_run_has_no_step_twice(tmp_path):
    with tracker_of(tmp_path) as tracker:
        for step in range(1, 6):
            tracker.log(step, {"reward/mean": 0.1})
            tracker.samples(step, [{"prompt_id": "p"}, {"prompt_id": "q"}])
    with tracker_of(tmp_path) as tracker:
        tracker.resume(3)
        assert steps_of(tmp_path) == [1, 2, 3]
        assert steps_of(tmp_path, "samples.jsonl") == [1, 1, 2, 2, 3, 3]
        tracker.log(4, {"reward/mean": 0.9})
    assert [row["reward/mean"] for row in rows_of(tmp_path)] == [0.1, 0.1, 0.1, 0.9]


def test_a_row_is_on_the_disk_before_log_returns(tmp_path, monkeypatch):
    synced, sync = {}, os.fsync

    def fsync(handle):
        sync(handle)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))
        synced[name] = os.fstat(handle).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    with tracker_of(tmp_path) as tracker:
        for step in (1, 2):
            tracker.samples(step, [{}])
            tracker.log(step, {})
            sizes = {name: (tmp_path / name).stat().st_size for name in ("metrics.jsonl", "samples.jsonl")}
            assert {name: synced[name] for name in sizes} == sizes
    assert tmp_path.name in synced  # so that the new files themselves survive


@pytest.mark.parametrize(
    ("lost", "torn", "said"),
    [
        ({}, b"", None),
        ({}, b'{"step": 7, "rew', None),  # after the checkpoint: sampled again
        ({3}, b"", "step 3"),
        ({2, 4, 5, 6}, b"", "steps 2, 4-6"),
        ({6}, b'{"step": 6, "rew', "step 6"),
        ({1, 2, 3, 4, 5, 6}, b"", "steps 1-6"),
    ],
)
def test_a_resumed_run_says_once_which_rows_are_lost(tmp_path, lost, torn, said):
    rows = [{"step": step, "reward/mean": 0.5} for step in range(1, 7) if step not in lost]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + torn)
    out = io.StringIO()
    with Tracker(tmp_path, 9, stream=out, clock=Clock()) as tracker:
        tracker.resume(6)
        lines = out.getvalue().splitlines()
        tracker.log(7, {})
    assert [f"metrics.jsonl has no row of {said}: torn or lost" in line for line in lines] == [True] * (
        said is not None
    )
    assert steps_of(tmp_path) == [*(row["step"] for row in rows), 7]


def test_a_process_that_forgot_to_resume_still_leaves_no_step_twice(tmp_path):
    with tracker_of(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {})
            tracker.samples(step, [{}])
    with tracker_of(tmp_path) as tracker:
        tracker.log(2, {})
        tracker.samples(2, [{}])
        tracker.samples(2, [{}])
    assert steps_of(tmp_path) == [1, 2]
    assert steps_of(tmp_path, "samples.jsonl") == [1, 2, 2]


def test_a_step_is_logged_once(tmp_path):
    with tracker_of(tmp_path) as tracker:
        tracker.log(1, {})
        with pytest.raises(ValueError, match="step 1 is logged after step 1"):
            tracker.log(1, {})


def test_every_row_is_readable_after_a_crash_at_any_byte(tmp_path):
    with tracker_of(tmp_path) as tracker:
        for step in (1, 2):
            tracker.log(step, {"reward/mean": 0.5, "hist/scale": HISTOGRAM, "note/word": "ä"})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:cut])
        tracker = tracker_of(tmp_path, clock=Clock())
        tracker.resume(1)
        tracker._metrics.append(2, [{"step": 2}])
        lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_other_ranks_write_and_show_nothing(tmp_path, capsys):
    with Tracker(tmp_path, 3, enabled=False) as tracker:
        tracker.resume(0)
        with tracker.phase("generate"):
            pass
        tracker.samples(1, [{}])
        assert "seconds/generate" in tracker.log(1, {})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_what_a_model_wrote_survives_samples(tmp_path):
    text = "\ud800 \0 </script> \u2028"
    with tracker_of(tmp_path) as tracker:
        tracker.samples(1, [{"prompt_id": "p", "responses": [{"text": text, "reward": float("nan")}]}])
    (row,) = rows_of(tmp_path, "samples.jsonl")
    assert row == {"step": 1, "prompt_id": "p", "responses": [{"text": text, "reward": None}]}


def test_a_log_file_gets_one_plain_line_a_step_with_the_time_left(tmp_path):
    clock, out = Clock(), io.StringIO()
    tracker = Tracker(tmp_path, 12, stream=out, clock=clock)
    for step in (1, 2, 3):
        clock.now += 2
        tracker.log(step, {
            "reward/mean": 0.5119, "reward/pass@1": 0.25, "clip/low": 0.004, "clip/high": 0.008,
            "policy/entropy": 0.83, "speed/tokens_per_s": 9600.3,
        })  # fmt: skip
    tracker.close()
    tracker.close()
    lines = out.getvalue().splitlines()
    wanted = "rl  3/12  reward 0.512  acc 0.250  clip 1.2%  entropy 0.830  9,600 tok/s  2.0 s  18 s left"
    assert lines[2] == wanted
    assert lines[0] == wanted.replace(" 3/", " 1/").replace("18 s", "22 s")
    assert lines[3:] == ["rl: 3 steps in 6.0 s"]
    assert all(line.isprintable() for line in lines)


def test_a_resumed_run_judges_its_speed_by_its_own_steps(tmp_path):
    clock, out = Clock(), io.StringIO()
    tracker = Tracker(tmp_path, 100, stream=out, clock=clock)
    tracker.resume(90)
    clock.now += 3
    tracker.log(91, {})
    assert out.getvalue().splitlines()[-1] == "rl  91/100  3.0 s  27 s left"


def test_figures_leave_out_what_is_not_there():
    assert figures({"reward/mean": None, "clip/high": 0.5}) == "clip 50.0%"
    assert figures({}) == ""


def test_tensorboard_reads_the_events_and_forgets_the_steps_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracker_of(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"reward/mean": step / 10, "a/nan": float("nan"), "hist/scale": HISTOGRAM})
    with tracker_of(tmp_path) as tracker:
        tracker.resume(1)
        tracker.log(2, {"reward/mean": 0.9, "hist/scale": HISTOGRAM})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("reward/mean")] == [(1, 0.1), (2, 0.9)]
    assert "a/nan" not in events.Tags()["scalars"]
    last = events.Histograms("hist/scale")[-1].histogram_value
    assert (last.num, last.sum) == (4.0, 3 * 0.5 + 1.5)
    assert list(last.bucket) == HISTOGRAM["counts"]


def test_speeds_of_one_device_and_the_share_of_the_peak(tmp_path):
    clock, out = Clock(), io.StringIO()
    with Tracker(tmp_path, 2, stream=out, clock=clock, events=False, devices=4, peak=1e12) as tracker:
        with tracker.phase("update"):
            clock.now += 2
        clock.now += 6
        row = tracker.log(1, {"speed/generated_tokens": 800, "speed/update_operations": 4e12})
        assert "speed/mfu" not in tracker.log(2, {"speed/generated_tokens": 800})
    assert (row["speed/tokens_per_s"], row["speed/tokens_per_s_device"]) == (100, 25)
    assert row["speed/mfu"] == 0.5  # 4e12 operations in 2 s, on devices of together 4e12 a second
    assert "mfu 50.0%" in out.getvalue().splitlines()[0]
    assert not (tmp_path / "tensorboard").exists()
