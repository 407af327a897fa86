"""Training prompts filtered by offline pass rates: which are kept, and which files are refused as other prompts' own.

The tokenizer is a real one, trained on the problems; the shard folder that writes the pass rates is the stage's own.
"""

import pytest
from cli import preset

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import write_json, write_jsonl
from pipeline.data import tokenizer
from pipeline.data.prompts import load_prompts, read_prompts
from pipeline.rollout.shards import ShardFolder, prompts_digest
from pipeline.run.compose import compose
from pipeline.stage import StageRun

RATES = [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]


def problems(shift: int = 0) -> list[dict]:
    """Ids that say nothing of the problem, as those of generated problems."""
    return [{"id": f"train-{i}", "problem": f"{i}+{shift}=", "answer": str(i + shift)} for i in range(len(RATES))]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer.train(["0123456789+=" for _ in range(20)], folder, 64)
    return tokenizer.load(folder)


@pytest.fixture
def run_of(tmp_path, words):
    """A run with measured problems, under the given settings."""

    def make(*settings: str) -> StageRun:
        base = ["stage=rl", f"model={preset(tmp_path)}", "data=arithmetic", "name=r", f"runs_dir={tmp_path}"]
        return StageRun(compose([*base, *settings]), tmp_path / "r")

    write_jsonl(tmp_path / "r" / "preprocess" / "train.jsonl", problems())
    measured(make(), words)
    return make


def measured(run: StageRun, words) -> None:
    """What stage=rollout leaves behind."""
    prompts = read_prompts(run.root / "preprocess" / "train.jsonl", run, words)
    shards = ShardFolder(run.root / "rollout", prompts, 4, 4)
    shards.open({"prompts": prompts_digest(prompts)})
    for shard in range(shards.count):
        first = shard * 4
        shards.write(
            shard,
            (
                {"id": prompt.id, "sample": k, "correct": k < 4 * RATES[first + i]}
                for i, prompt in enumerate(shards.members(shard))
                for k in range(4)
            ),
        )
    assert [row["pass_rate"] for row in shards.finish()] == RATES


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((), [0, 1, 2, 3, 4, 5]),
        (("rl.min_pass_rate=0",), [1, 2, 3, 4]),
        (("rl.max_pass_rate=1",), [0, 1, 2, 3, 5]),
        (("rl.min_pass_rate=0", "rl.max_pass_rate=1"), [1, 2, 3]),
        (("rl.min_pass_rate=0.25", "rl.max_pass_rate=0.75"), [2]),
    ],
)
def test_bounds_are_strict_and_each_may_be_left_out(run_of, words, settings, kept):
    assert [prompt.id for prompt in load_prompts(run_of(*settings), words)] == [f"train-{i}" for i in kept]


def test_dropped_prompts_are_reported_and_too_few_are_a_warning(run_of, words, capsys):
    load_prompts(run_of("rl.min_pass_rate=0", "rl.max_pass_rate=1", "rl.prompts_per_step=4"), words)
    out = capsys.readouterr().out
    assert "of 6 training prompts" in out
    assert "2 are at or below rl.min_pass_rate=0 and 1 at or above rl.max_pass_rate=1: 3 kept" in out
    assert "WARNING: fewer than rl.prompts_per_step=4" in out


def test_bounds_that_leave_nothing(run_of, words):
    with pytest.raises(InputError, match=r"No prompt is left .* 5 are at or below rl\.min_pass_rate=0\.75 .* Widen"):
        load_prompts(run_of("rl.min_pass_rate=0.75", "rl.max_pass_rate=0.9"), words)


def test_bounds_the_wrong_way_round(run_of):
    with pytest.raises(UsageError, match=r"rl\.min_pass_rate=0\.5 is not below rl\.max_pass_rate=0\.5"):
        run_of("rl.min_pass_rate=0.5", "rl.max_pass_rate=0.5")


def refusal(run: StageRun, words) -> str:
    with pytest.raises(InputError) as caught:
        load_prompts(run, words)
    assert "bash run.sh stage=rollout" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("missing", ["pass_rates.jsonl", "plan.json"])
def test_a_missing_file(run_of, words, missing):
    run = run_of("rl.min_pass_rate=0")
    (run.root / "rollout" / missing).unlink()
    assert "which does not exist" in refusal(run, words)


def test_pass_rates_of_an_evaluation_set_or_another_data_set(run_of, words):
    run = run_of("rl.min_pass_rate=0")
    write_jsonl(
        run.root / "rollout" / "pass_rates.jsonl", [{"id": f"held-{i}", "pass_rate": 0.5, "n": 4} for i in range(9)]
    )
    assert "no pass rate for 6 of 6 training prompts ('train-0' is one)" in refusal(run, words)


def test_pass_rates_of_other_problems_with_the_same_ids(run_of, words):
    run = run_of("rl.min_pass_rate=0")
    write_jsonl(run.root / "preprocess" / "train.jsonl", problems(shift=1))
    assert "measured on other prompts" in refusal(run, words)


def test_pass_rates_of_another_template(run_of, words):
    assert "another template" in refusal(run_of("rl.min_pass_rate=0", "data.template=plain"), words)


def test_a_torn_file_of_pass_rates(run_of, words):
    run = run_of("rl.min_pass_rate=0")
    path = run.root / "rollout" / "pass_rates.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert "no pass rate for 1 of 6" in refusal(run, words)
    write_json(path, {"id": "train-0"})  # no JSON lines at all
    with pytest.raises(InputError, match=r"pass_rates\.jsonl, line 1"):
        load_prompts(run, words)
