"""What must not be lost: work behind a missing file, a run behind a damaged checkpoint, weights behind a loss that turns NaN.

Each case starts from a copy of the run `straight` or of the prepared run, and types the same command as a person would. The
decisions themselves are tested case by case in tests/training.
"""

import re
import shutil

import psutil
import pytest
from house import family, rows, steps_done, until

from pipeline.common.files import read_json, write_json

LATEST = "latest_checkpointed_iteration.txt"
NAN_LOSS = """
import os

def loss(x, config):
    poison = float("nan") if os.path.exists({flag!r}) else 0.0
    return -(x.ratio + poison) * x.advantages
"""


@pytest.fixture
def copied(house, trained, request):
    """A copy of the finished run `straight` under the test's own name, to be continued for two more steps."""
    name = request.node.name.replace("_", "-")[5:30]
    shutil.copytree(trained, house.root(name))
    return name, house.root(name)


def test_a_missing_latest_file_is_no_fresh_start(house, copied):
    name, root = copied
    (root / "checkpoints" / LATEST).unlink()
    before = (root / "metrics.jsonl").read_bytes()
    result = house.run("rl", "rl.steps=10", name=name)
    assert result.code == 3, result.err
    assert f"{LATEST} is missing" in result.err
    assert "4, 6, 8" in result.err
    assert "echo 8 >" in result.err
    assert (root / "metrics.jsonl").read_bytes() == before


def test_the_settings_in_a_checkpoint_guard_it_where_the_note_of_its_start_is_gone(house, copied):
    name, root = copied
    (root / "rl" / "started.json").unlink()
    before = (root / "metrics.jsonl").read_bytes()
    result = house.run("rl", "rl.steps=10", "seed=5", name=name)
    assert result.code == 2, result.err
    assert "was made under other settings: seed 0 -> 5" in result.err
    assert (root / "metrics.jsonl").read_bytes() == before


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(house, trained, copied):
    name, root = copied
    file = root / "checkpoints" / "iter_0000008" / "__1_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    left = root / "checkpoints" / ".iter_0000009.writing"
    left.mkdir()
    later = root / "samples" / "step_0000099.pt"
    later.write_bytes(b"of a step that is made again")
    manifest = read_json(root / "rl" / "manifest.json")
    write_json(root / "rl" / "manifest.json", manifest | {"config": {}})  # so that the stage runs again
    result = house.run("rl", name=name)
    assert result.code == 0, result.err
    assert "iter_0000008 is damaged (__1_0.distcp has changed since it was saved)" in result.out
    assert "continuing after step 6 of 8" in result.out
    assert rows(root / "metrics.jsonl") == rows(trained / "metrics.jsonl")
    assert (root / "checkpoints" / "iter_0000008.damaged-1").is_dir()
    assert not left.exists()
    assert not later.exists()


def test_a_loss_that_turns_nan_ends_the_run_and_spoils_no_checkpoint(house, trained):
    """It starts from the weights and the optimizer of another run, by `rl.load`."""
    root = house.copy("nan", "preprocess", "convert")
    flag, file = house.folder / "poison", house.folder / "own_loss.py"
    file.write_text(NAN_LOSS.format(flag=str(flag)))
    words = [f"algo.import_path={file}:loss", "rl.save_every=1"]
    words += [f"rl.load={trained / 'checkpoints'}", "rl.load_optimizer=true"]
    process = house.start("rl", *words, name="nan")
    until(lambda: steps_done(root / "metrics.jsonl") >= 3, process)
    listening = {
        connection.laddr.ip
        for member in family(process)
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    flag.touch()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert f"rl.load: {trained / 'checkpoints' / 'iter_0000008'}: " in out
    assert "tensors of optimizer state" in out
    assert "not read" not in out
    assert re.search(r"WARNING: step \d+: (50|100)% of its optimizer steps were skipped", out)
    assert "3 optimizer steps in a row were skipped (rl.max_skipped), because the" in err
    assert " on rank 0 is not finite" in err
    assert "Traceback" not in err
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, f"reachable from elsewhere: {listening}"

    flag.unlink()  # the last checkpoint is whole: the same command continues
    result = house.run("rl", *words, name="nan")
    assert result.code == 0, result.err
    assert "continuing after step" in result.out
    done = rows(root / "metrics.jsonl")
    assert [row["step"] for row in done] == list(range(1, 9))
    assert all(row["policy/loss"] is not None for row in done[-2:])
