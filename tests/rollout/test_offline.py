"""The offline stage, killed and continued: no sample is lost or repeated, and the bytes equal those of an undisturbed
run.

Worlds have one rank or two, as two copies of the model or as one copy on both. The same world must repeat to the byte.
Other layouts must sample the same tokens, but their log-probs differ in the last digits (sums in another order). The
kills come at fixed moments here; tests/lib/offline_run.py kills at random, and also with one copy on two ranks. Not
covered: vLLM, whose samples may depend on the batch, and several machines.
"""

import json
import shutil

import offline_run as offline
import pytest
from cli import end
from house import kill_all, ranks_of

pytestmark = pytest.mark.slow
PROBLEMS, GROUP, SHARD = 20, 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    offline.prepare_apart(folder, PROBLEMS)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder):
    """Makes the outputs of a run without kills, by layout (TP, DP)."""
    made = {}

    def of(tp: int, dp: int) -> dict[str, bytes]:
        if (tp, dp) not in made:
            settings = offline.copy_of(folder, f"whole-{tp}-{dp}", tp, dp)
            offline.run(settings)
            made[tp, dp] = offline.outputs(settings)
        return made[tp, dp]

    return of


def rows_of(files: dict[str, bytes]) -> list[dict]:
    return [json.loads(line) for name, data in files.items() if "shards/" in name for line in data.splitlines()]


def test_every_sample_is_there_once_and_counted(undisturbed):
    whole = undisturbed(1, 1)
    assert len(whole) == PROBLEMS // SHARD + 1
    rows = rows_of(whole)
    assert [(row["id"], row["sample"]) for row in rows] == [(f"a{i}", j) for i in range(PROBLEMS) for j in range(GROUP)]
    rates = [json.loads(line) for line in whole["rollout/pass_rates.jsonl"].splitlines()]
    assert [rate["id"] for rate in rates] == [f"a{i}" for i in range(PROBLEMS)]
    for i, rate in enumerate(rates):
        group = rows[GROUP * i : GROUP * (i + 1)]
        assert rate == {"id": f"a{i}", "pass_rate": sum(row["correct"] for row in group) / GROUP, "n": GROUP}


@pytest.mark.parametrize(("tp", "dp", "alone"), [pytest.param(1, 1, False, marks=pytest.mark.long), (1, 2, True)])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(folder, undisturbed, tp, dp, alone):
    """Kills the run after its first shard: all processes at once, or one rank, and then its world must end by
    itself."""
    whole = undisturbed(tp, dp)
    settings = offline.copy_of(folder, f"killed-{tp}-{dp}", tp, dp)
    process = offline.start(settings)
    try:
        offline.wait(lambda: offline.shards_of(settings) > 0, process)
        if alone:
            offline.kill_rank(process, ranks_of(process, "rollout")[1])
        else:
            kill_all(process)
    finally:
        end(process)
    there = offline.outputs(settings)
    assert there
    assert there.items() <= whole.items()
    # The temporary file of a kill during the second shard's write, and a last shard of which the disk lost half.
    shards = folder / settings.name / "rollout" / "shards"
    (shards / ".00001.jsonl.torn.tmp").write_bytes(whole["rollout/shards/00001.jsonl"][:100])
    (shards / "00001.jsonl").unlink(missing_ok=True)
    (shards / "00003.jsonl").write_bytes(whole["rollout/shards/00003.jsonl"][:-100])
    offline.run(settings)
    damaged = folder / settings.name / "rollout" / "damaged"
    assert [path.name for path in damaged.iterdir()] == ["00003.jsonl"]
    shutil.rmtree(damaged)
    assert offline.outputs(settings) == whole


def test_other_layouts_sample_the_same_tokens(undisturbed):
    one, *others = (rows_of(undisturbed(tp, dp)) for tp, dp in ((1, 1), (1, 2), (2, 1)))
    for other in others:
        for row, expected in zip(other, one, strict=True):
            assert row["logps"] == pytest.approx(expected["logps"], abs=1e-5)
            assert row | {"logps": []} == expected | {"logps": []}
