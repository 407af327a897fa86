"""A replay makes the same numbers to the bit, shows what a changed response changes, and writes to nothing of the run."""

import shutil

import pytest
import torch
import yaml
from house import rows

from pipeline.common.errors import InputError
from pipeline.common.files import read_json
from pipeline.run.manifests import fingerprint
from pipeline.settings import Replay, Settings
from pipeline.stage import StageRun

KEPT = ("checkpoints", "metrics.jsonl", "samples.jsonl", "samples", "tensorboard")
MADE = ("reward/", "policy/", "clip/", "bounds/", "optim/", "gap/", "length/")


def test_a_step_is_made_again_to_the_bit_and_nothing_of_the_run_changes(house, trained):
    """Step 8 from the checkpoint of step 6, by way of step 7."""
    shutil.copytree(trained, house.root("again"))
    shutil.rmtree(house.root("again") / "checkpoints" / "iter_0000008")
    before = {name: fingerprint(house.root("again") / name) for name in KEPT}
    result = house.run("replay", "step=8", "replay.generate=true", name="again")
    assert result.code == 0, result.err
    assert "step 8, from the checkpoint of step 6" in result.out
    assert "WARNING" not in result.out
    assert (
        result.out.count("16 of 16 responses were sampled again with the same tokens, log-probs equal to the bit") == 2
    )
    found = read_json(house.root("again") / "replay" / "step_0000008.json")
    names = {entry["metric"] for entry in found["metrics"]}
    recorded = {name for name in rows(trained / "metrics.jsonl")[-1] if name.startswith(MADE)}
    assert recorded <= names
    assert [entry for entry in found["metrics"] if entry["then"] != entry["now"]] == []
    assert result.out.count(f"{len(names)} of {len(names)} metrics are equal to the bit") == 2
    assert {name: fingerprint(house.root("again") / name) for name in KEPT} == before


def test_another_layout_agrees_closely_and_a_changed_reward_shows_in_what_it_changes(house, trained):
    """One rank instead of two: the metrics that follow from the rewards name the change. So is a setting that differs named."""
    shutil.copytree(trained, house.root("changed"))
    file = house.root("changed") / "samples" / "step_0000007.pt"
    record = torch.load(file, weights_only=True)
    record["rewards"][1, 2] += 3.0
    torch.save(record, file)
    words = ["cluster.devices_per_node=1", "layout.tp=1", "algo.dual_clip=5"]
    result = house.run("replay", "step=7", *words, name="changed")
    assert result.code == 0, result.err
    assert "WARNING: the run made step 7 with another setting: algo.dual_clip none -> 5.0" in result.out
    found = read_json(house.root("changed") / "replay" / "step_0000007.json")["metrics"]
    then, now = ({entry["metric"]: entry[when] for entry in found} for when in ("then", "now"))
    assert now["reward/mean"] == pytest.approx(then["reward/mean"] + 3 / 16)
    assert now["optim/lr"] == then["optim/lr"]
    assert now["optim/grad_norm"] != pytest.approx(then["optim/grad_norm"], rel=1e-3)
    for name in ("policy/entropy", "length/mean", "reward/pass@1", "gap/checked_mean_exp"):  # before the update
        assert now[name] == pytest.approx(then[name], rel=1e-5), name
    line = next(line for line in result.out.splitlines() if line.startswith("reward/mean "))
    assert "+0.188" in line


def test_a_step_that_is_not_kept_says_which_are(trained, tmp_path):
    from stages.replay import choose

    settings = Settings.model_validate(yaml.safe_load((trained / "rl" / "config.yaml").read_text()))

    def asked(step):
        return choose(StageRun(settings.model_copy(update={"replay": Replay(step=step)}), root=tmp_path))

    with pytest.raises(InputError, match=r"has no step to replay: responses are kept of none, checkpoints of none"):
        asked(None)
    shutil.copytree(trained / "samples", tmp_path / "samples")
    shutil.copytree(trained / "checkpoints" / "iter_0000006", tmp_path / "checkpoints" / "iter_0000006")
    assert asked(None) == (8, 6)
    assert asked(3) == (3, 0)
    with pytest.raises(
        InputError, match=r"step=9 cannot be replayed: its responses are not kept .* Steps that can: 1-8\."
    ):
        asked(9)
    (tmp_path / "samples" / "step_0000002.pt").unlink()
    with pytest.raises(
        InputError, match=r"step=3 cannot be replayed: .* responses are missing .*6\)\. Steps that can: 1, 7-8\."
    ):
        asked(3)
