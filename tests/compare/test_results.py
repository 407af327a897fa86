"""The figures of one run, from what it left."""

import json

import pytest

from pipeline.compare.results import read_figures

BEFORE = {"sets": {"held_out": {"avg@2": 0.5, "avg@2_ci": [0.4, 0.6]}}}


def test_the_regime_is_measured_on_live_tokens(tmp_path):
    rows = [
        {"policy/live_tokens": 0.5, "clip/static_low": 0.02, "clip/static_high": 0.03, "clip/differs_from_static": 0.01,
         "clip/low": 0.01, "clip/high": 0.02, "reward/pass@1": 0.5},
        {"policy/live_tokens": 1.0, "clip/static_low": 0.05, "clip/static_high": 0.0, "clip/differs_from_static": 0.04,
         "clip/low": 0.0, "clip/high": 0.05, "reward/pass@1": 0.7},
        {"policy/live_tokens": 0.0, "clip/static_low": 0.0, "clip/static_high": 0.0, "clip/differs_from_static": 0.0,
         "clip/low": 0.0, "clip/high": 0.0},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "after.json").write_text(json.dumps({"sets": {"held_out": {"avg@2": 0.2}}}))
    got = read_figures(tmp_path, BEFORE)
    assert got.static_clipped == pytest.approx((0.1 + 0.05) / 2)  # a step without a live token says nothing
    assert got.differs == pytest.approx((0.02 + 0.04) / 2)
    assert got.clipped == pytest.approx((0.03 + 0.05) / 3)
    assert got.collapsed  # below half of what it started with
    assert got.area == pytest.approx(0.6)
