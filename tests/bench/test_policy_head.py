"""The benchmark's report at a small size: complete, and every variant did the same work."""

import json

import pytest
from rich.console import Console

from pipeline.settings import Bench, Cluster, Settings
from stages.bench.policy_head import bench


@pytest.mark.slow
def test_the_report_covers_every_variant():
    size = Bench(tokens=64, hidden=32, vocab=2000, repeats=1)
    settings = Settings.model_construct(bench=size, cluster=Cluster(device="cpu"))
    report = json.loads(json.dumps(bench(settings, Console(quiet=True))))
    rows = {row["name"]: row for row in report["rows"]}
    assert {"naive", "recompute", "fused"} <= rows.keys()
    for row in rows.values():
        assert row["failed"] is None
        assert row["seconds"] > 0
        assert report["samples"][row["name"]] == pytest.approx([row["seconds"]])
        assert row["ratio_to_naive"] > 0
        assert row["checksum"] == pytest.approx(rows["naive"]["checksum"], rel=1e-5)
    assert rows["recompute"]["operations"] == 8 * 64 * 32 * 2000
    assert rows["fused"]["operations"] == 6 * 64 * 32 * 2000
