"""The offline stage, killed and continued: no sample lost, none repeated, and the bytes of an undisturbed run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import offline_run as offline

SCRIPT = Path(offline.__file__)


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    subprocess.run([sys.executable, SCRIPT, tmp_path, "20"], check=True, cwd=offline.ROOT, env=offline.environment())
    whole = offline.outputs(tmp_path / "whole")
    assert len(whole) == 4 + 1
    rows = [json.loads(line) for name, data in whole.items() if "shards" in name for line in data.splitlines()]
    assert [(row["id"], row["sample"]) for row in rows] == [(f"a{i}", j) for i in range(20) for j in range(4)]
    rates = [json.loads(line) for line in whole["rollout/pass_rates.jsonl"].splitlines()]
    assert [rate["id"] for rate in rates] == [f"a{i}" for i in range(20)]
    for i, rate in enumerate(rates):
        group = rows[4 * i : 4 * i + 4]
        assert rate == {"id": f"a{i}", "pass_rate": sum(row["correct"] for row in group) / 4, "n": 4}

    config = offline.copy_of(tmp_path, "killed")
    process = offline.start(config)
    first = tmp_path / "killed" / "rollout" / "shards" / "00000.jsonl"
    while not first.exists() and process.poll() is None:
        time.sleep(0.002)
    offline.kill(process)
    there = offline.outputs(tmp_path / "killed")
    assert there
    assert there.items() <= whole.items()
    # What a kill in the middle of the second shard's write leaves beside it.
    (first.parent / ".00001.jsonl.torn.tmp").write_bytes(whole["rollout/shards/00001.jsonl"][:100])
    (tmp_path / "killed" / "rollout" / "shards" / "00001.jsonl").unlink(missing_ok=True)
    assert offline.start(config).wait() == 0
    assert offline.outputs(tmp_path / "killed") == whole
