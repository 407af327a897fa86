"""A short run keeps its learning curve: what a change of numbers anywhere between data and optimizer would bend.

`golden.json` holds the first steps of the run `straight`. The tolerance allows for another processor's kernels, whose last
bits differ: one sampled token in some hundred may then be another. A change that means to move the curve writes the file
again: `ETR_WRITE_GOLDEN=1 bash run.sh stage=test`.
"""

import json
import os
from pathlib import Path

import pytest

from pipeline.common.files import read_jsonl

GOLDEN = Path(__file__).with_name("golden.json")
NAMES = (
    "reward/mean", "length/mean", "policy/entropy", "policy/loss", "policy/ratio_mean", "bounds/scale_mean",
    "bounds/eps_high_live_mean", "optim/grad_norm", "optim/lr",
)  # fmt: skip
STEPS = 3


def test_the_first_steps_are_those_that_were_recorded(trained):
    rows = [{name: row[name] for name in NAMES} for row in list(read_jsonl(trained / "metrics.jsonl"))[:STEPS]]
    if os.environ.get("ETR_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(rows, indent=1) + "\n")
    for step, (row, golden) in enumerate(zip(rows, json.loads(GOLDEN.read_text()), strict=True), 1):
        for name in NAMES:
            assert row[name] == pytest.approx(golden[name], rel=0.03, abs=0.01), f"step {step}: {name}"
