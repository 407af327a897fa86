"""A chosen step leaves a trace that its viewers can read; other steps and other ranks leave nothing."""

import gzip
import json

import torch

from pipeline.tracking.profiler import Profiler


def test_only_the_chosen_steps_of_the_first_rank_are_traced(tmp_path):
    written = []
    for enabled in (True, False):
        profiler = Profiler([2], tmp_path / "profile", enabled)
        for step in (1, 2, 3):
            profiler.begin(step)
            torch.ones(3, 3) @ torch.ones(3, 3)
            written += profiler.end(step)
    assert written[0] == tmp_path / "profile" / "step2.trace.json.gz"
    assert sorted((tmp_path / "profile").iterdir()) == sorted(written)  # on a GPU also the memory's history
    events = json.loads(gzip.decompress(written[0].read_bytes()))["traceEvents"]
    assert any(event.get("name") == "aten::mm" for event in events)
