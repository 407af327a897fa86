"""The folder of shards: which are made together, and what happens to shards of another plan and to truncated ones."""

import pytest

from pipeline.common.errors import InputError
from pipeline.common.files import read_jsonl
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.rollout.shards import ShardFolder, prompts_digest, sample_row


def prompts_of(count: int) -> list[Prompt]:
    return [Prompt(id=f"p{i}", token_ids=[i], gold=str(i), text=f"problem {i}") for i in range(count)]


def rows_of(prompts, correct=lambda prompt, sample: False):
    for prompt in prompts:
        for sample in range(2):
            rollout = Rollout(
                prompt=prompt, sample=sample, token_ids=[1, 2], logps=[-0.123456789, -1.0], raw_logps=[0.0, 0.0],
                finish_reason="stop", policy_version=3, text="so",
            )  # fmt: skip
            yield sample_row(rollout, reward=0.5, correct=correct(prompt, sample), extracted=None, layer="")


def test_waves_are_whole_and_cover_what_is_missing(tmp_path):
    shards = ShardFolder(tmp_path, prompts_of(23), 5, 2)
    assert shards.open({"seed": 1}) == []
    assert shards.waves(2) == [[0, 1], [2, 3], [4]]
    for shard in (0, 1, 2):
        shards.write(shard, rows_of(shards.members(shard)))
    assert shards.missing() == [3, 4]
    assert shards.waves(2) == [[2, 3], [4]]
    assert shards.waves(3) == [[3, 4]]
    assert [len(shards.members(shard)) for shard in range(5)] == [5, 5, 5, 5, 3]


def test_a_finished_shard_stays(tmp_path):
    shards = ShardFolder(tmp_path, prompts_of(4), 2, 2)
    shards.open({})
    shards.write(0, rows_of(shards.members(0)))
    before = shards.path(0).read_bytes()
    shards.write(0, rows_of([]))
    assert shards.path(0).read_bytes() == before


def test_another_plan_sets_the_shards_aside(tmp_path):
    prompts = prompts_of(4)
    shards = ShardFolder(tmp_path, prompts, 2, 2)
    plan = {"prompts": prompts_digest(prompts), "layout": (1, 2)}
    shards.open(plan)
    shards.write(0, rows_of(shards.members(0)))
    assert shards.open(plan) == []
    assert shards.missing() == [1]
    (said,) = shards.open(plan | {"prompts": prompts_digest(prompts[::-1]), "group_size": 2})
    assert "made with another group_size and prompts; moved aside to" in said
    assert [path.name for path in (tmp_path / "shards.old-1").iterdir()] == ["00000.jsonl"]
    assert shards.missing() == [0, 1]


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_shards_of_an_unknown_plan_are_set_aside(tmp_path, damage):
    shards = ShardFolder(tmp_path, prompts_of(4), 2, 2)
    shards.open({"seed": 1})
    shards.write(0, rows_of(shards.members(0)))
    (tmp_path / "plan.json").write_text(damage)
    (said,) = shards.open({"seed": 1})
    assert "with an unknown plan" in said
    assert shards.missing() == [0, 1]
    assert shards.open({"seed": 1}) == []


def test_pass_rates_are_counted_from_the_files(tmp_path):
    shards = ShardFolder(tmp_path, prompts_of(3), 2, 2)
    shards.open({})
    for shard in range(2):
        shards.write(shard, rows_of(shards.members(shard), lambda prompt, sample: int(prompt.id[1]) > sample))
    expected = [{"id": f"p{i}", "pass_rate": rate, "n": 2} for i, rate in enumerate((0.0, 0.5, 1.0))]
    assert shards.finish() == expected
    assert list(read_jsonl(tmp_path / "pass_rates.jsonl")) == expected
    row = next(read_jsonl(shards.path(0)))
    assert row["logps"] == [-0.123457, -1.0]
    assert (row["reward"], row["policy_version"], row["problem"]) == (0.5, 3, "problem 0")


@pytest.mark.parametrize(
    "keep", ["nothing", "half a line", "all but the last newline", "all but one line", "a line too many"]
)
def test_a_truncated_shard_is_made_again(tmp_path, keep):
    shards = ShardFolder(tmp_path, prompts_of(4), 2, 2)
    shards.open({})
    for shard in range(2):
        shards.write(shard, rows_of(shards.members(shard)))
    whole = shards.path(1).read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = {
        "nothing": b"",
        "half a line": whole[:-30],
        "all but the last newline": whole[:-1],
        "all but one line": b"".join(lines[:-1]),
        "a line too many": whole + lines[0],
    }[keep]
    shards.path(1).write_bytes(cut)
    (said,) = shards.open({})
    assert str(shards.path(1)) in said
    assert (tmp_path / "damaged" / "00001.jsonl").read_bytes() == cut
    assert shards.missing() == [1]
    shards.write(1, rows_of(shards.members(1)))
    assert shards.open({}) == []
    assert len(shards.finish()) == 4


def test_a_shard_of_other_samples_is_an_error(tmp_path):
    shards = ShardFolder(tmp_path, prompts_of(4), 2, 2)
    shards.open({})
    for shard in range(2):
        shards.write(shard, rows_of(shards.members(0)))
    with pytest.raises(InputError, match=r"00001\.jsonl does not hold 2 samples of each of its prompts\. Delete it"):
        shards.finish()
    assert not (tmp_path / "pass_rates.jsonl").exists()
