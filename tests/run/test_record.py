"""A run remembers its settings: what a short command takes from it, what it keeps, and what no longer fits together.

Stand-ins take the place of the stages (conftest.py).
"""

import re

import pytest
import yaml
from cli import worked

from pipeline.common.errors import InputError, UsageError
from pipeline.run.catalog import variant_of
from pipeline.run.compose import compose

GIVEN = ("algo.alpha=0.5", "rl.steps=6", "rl.optimizer.lr=3e-4", "data.path=a.jsonl", "sft.enabled=false")


@pytest.fixture
def made(run, tmp_path):
    """A run that was made with settings of its own; returns its folder."""
    for stage in ("preprocess", "convert", "rl"):
        code, _, err = run(f"stage={stage}", *GIVEN, "name=sm")
        assert code == 0, err
    return tmp_path / "runs" / "sm"


def test_a_name_alone_takes_the_settings_of_its_run(run, made):
    for stage in ("preprocess", "convert", "rl"):
        code, out, err = run(f"stage={stage}", "name=sm", short=True)
        assert (code, worked(out)) == (0, []), err
    code, out, _ = run("stage=rl", "name=sm", "rl.steps=9", short=True)
    assert (code, worked(out)) == (0, ["rl"])
    assert yaml.safe_load((made / "config.yaml").read_text())["rl"]["steps"] == 9
    code, _, err = run("stage=rl", "name=sm", "algo.alpha=0.1", short=True)
    assert code == 2
    assert "algo.alpha 0.5 -> 0.1" in err
    code, _, err = run("stage=rl", "name=smm", short=True)
    assert code == 2
    assert "model= is missing. The run name=smm has left no config.yaml" in err


def test_a_stage_with_fewer_keys_does_not_make_the_run_forget(run, made):
    before = yaml.safe_load((made / "config.yaml").read_text())
    for words in (["stage=report", "name=sm"], ["stage=export", "name=sm", "export.dtype=fp32"]):
        code, out, err = run(*words)  # with model=, so from the defaults
        assert (code, len(worked(out))) == (0, 1), err
    after = yaml.safe_load((made / "config.yaml").read_text())
    assert after["export"]["dtype"] == "fp32"
    assert {key: after[key] for key in ("algo", "rl", "sft", "data")} == {
        key: before[key] for key in ("algo", "rl", "sft", "data")
    }


def test_a_record_can_be_given_as_a_file(made, tmp_path, monkeypatch):
    record = made / "config.yaml"
    settings = compose(["stage=rl", f"config={record}", "name=again"])
    assert (settings.name, settings.algo.alpha, settings.rl.optimizer.lr) == ("again", 0.5, 3e-4)
    assert compose(["stage=rl", f"config={record}"]).name == "sm"
    other = compose(["stage=rl", f"config={record}", "algo=grpo", "cluster.nnodes=1", "layout.tp=1"])
    assert (other.algo_name, other.algo.loss, other.algo.alpha) == ("grpo", "grpo", 0.0)
    assert other.layout.tp == 1
    with pytest.raises(UsageError, match=r"is the record of a run\. Give it as config="):
        compose(["stage=rl", f"model={record}"])
    with pytest.raises(UsageError, match="has a model already"):
        compose(["stage=rl", f"config={record}", "model=tiny"])
    (tmp_path / "other.yaml").write_text("rl: {steps: 3}")
    with pytest.raises(InputError, match="is no record of a run"):
        compose(["stage=rl", "config=other.yaml"])
    (tmp_path / "torn.yaml").write_text(
        re.sub("layouts:\\n +'?1'?:", "layouts: {one: {}}\\n  was:", record.read_text())
    )
    with pytest.raises(InputError, match="is damaged: its layout"):
        compose(["stage=rl", "config=torn.yaml"])
    with pytest.raises(InputError, match="cannot be read"):
        compose(["stage=rl", "config=nowhere.yaml"])


def test_a_later_key_replaces_an_earlier_one_and_that_is_said(run, made):
    code, out, err = run(
        "stage=rl", "name=sm", "rl.steps=6", "algo.alpha=0.9", "rl.steps=8", "algo.alpha=0.5", short=True
    )
    assert (code, worked(out)) == (0, ["rl"]), err
    assert "rl.steps is given twice: 8 replaces 6" in out
    assert "algo.alpha is given twice: 0.5 replaces 0.9" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft.enabled=true"], "convert was made with other settings: sft.enabled False -> True"),
        (["model.norm_eps=1e-4"], "model.norm_eps 1e-06 -> 0.0001"),
        (["data.path=b.jsonl"], "preprocess was made with other settings: data.path"),
        (["data.limit=5"], "data.limit none -> 5"),
        (["data.eval_path.more=c.jsonl"], "data.eval_path.more"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_rl_refuses_a_base_that_was_made_under_other_settings(run, made, words, said):
    code, out, err = run("stage=rl", "name=sm", "force=true", *words, short=True)
    assert code == 2
    assert said in err
    assert "make it again: bash run.sh stage=" in err
    assert worked(out) == []


def test_rl_refuses_a_base_whose_warm_up_was_another(run):
    for stage in ("preprocess", "sft", "convert"):
        assert run(f"stage={stage}")[0] == 0
    code, _, err = run("stage=rl", "sft.batch_size=32")
    assert code == 2
    assert "sft was made with other settings: sft.batch_size 64 -> 32" in err
    assert run("stage=rl", "sft.save_every=7", "seed=3", "name=mini")[0] == 0  # the base stays what it is


def test_a_model_alone_is_evaluated_in_one_command(run, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "MATH-500.parquet").write_text("")
    words = ["stage=evaluate", "data.eval=[math500,mine.jsonl]", "data.eval_folder=sets"]
    code, out, err = run(*words)
    assert code == 0, err
    assert worked(out) == ["preprocess", "convert", "evaluate"]
    code, out, err = run(*words)
    assert (code, worked(out)) == (0, []), err
    code, out, err = run("stage=evaluate", "name=mini", short=True)
    assert (code, worked(out)) == (0, []), err
    code, _, err = run("stage=all", "data.eval=mine.jsonl", "name=x")
    assert code == 2
    assert "data.path is empty: stage=all trains" in err
    code, _, err = run(*words, "cluster.nnodes=2")
    assert code == 2
    assert "preprocess, convert, evaluate (before), which is for one node" in err


def test_an_evaluation_without_training_data_does_not_replace_those_of_a_run(run, made):
    code, out, err = run("stage=evaluate", "data.eval=mine.jsonl", "name=sm")
    assert (code, worked(out)) == (2, [])
    assert "The run name=sm has training problems, and this command names none" in err


def test_other_sets_are_measured_beside_a_trained_run_and_leave_it_as_it_is(run, made, tmp_path):
    for name in ("aime24", "new"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    files = [path for path in made.rglob("*") if path.is_file() and path.name != "summary.json"]  # it has the seconds
    kept = {path: path.read_bytes() for path in files}
    words = ["stage=evaluate", "name=sm", "data.eval=[aime24,new.jsonl]", "data.eval_folder=."]
    code, out, err = run(*words, short=True)
    assert (code, worked(out)) == (0, ["evaluate", "evaluate"]), err
    results = sorted(path.name for path in (made / "evaluate").glob("*.json") if path.stem[0] in "ab")
    assert results == ["after.aime24+new.json", "before.aime24+new.json"]
    assert {path: path.read_bytes() for path in kept} == kept  # among them config.yaml
    settings = yaml.safe_load(next((made / "evaluate").glob("config*.yaml")).read_text())
    assert settings["evaluate"]["k_of"] == {"aime24": 32}
    assert settings["evaluate"]["other_sets"] is True

    assert worked(run(*words, short=True)[1]) == []
    for changed in ("evaluate.temperature=0.5", "data.columns.problem=text", "force=true"):
        assert worked(run(*words, changed, short=True)[1]) == ["evaluate", "evaluate"], changed
    assert worked(run(*words, "evaluate.checkpoint=after", short=True)[1]) == []
    (tmp_path / "new.jsonl").write_text("other problems")
    assert worked(run(*words, "evaluate.checkpoint=after", short=True)[1]) == ["evaluate"]
    code, out, err = run("stage=evaluate", "name=sm", f"data.eval_path.mine={tmp_path / 'new.jsonl'}", short=True)
    assert (code, len(worked(out))) == (0, 2), err
    assert (made / "evaluate" / "after.mine.json").exists()

    # The run's own sets are measured as before.
    assert worked(run("stage=evaluate", "name=sm", short=True)[1]) == ["evaluate", "evaluate"]
    assert worked(run("stage=evaluate", "name=sm", short=True)[1]) == []
    assert worked(run("stage=rl", "name=sm", short=True)[1]) == []


def test_the_result_of_many_sets_has_a_short_name():
    words = ["stage=evaluate", "model=smollm2-135m", "evaluate.other_sets=true", "evaluate.checkpoint=after"]
    names = [
        variant_of(compose([*words, f"data.eval=[{','.join(f'{stem}{i}.jsonl' for i in range(30))}]"])) for stem in "ab"
    ]
    assert re.fullmatch(r"after\.a0\+29-others-[0-9a-f]{6}", names[0])
    assert names[0] != names[1]


def test_names_and_files_of_evaluation_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "sets").mkdir()
    for name in ("AIME_2024.parquet", "gsm8k_test.jsonl.gz", "notes.txt"):
        (tmp_path / "sets" / name).write_text("")
    words = ["stage=evaluate", "model=smollm2-135m", "data.eval=[aime24,gsm8k,amc23,new set.jsonl]"]
    settings = compose([*words, "data.eval_folder=sets"])
    sets = tmp_path / "sets"
    assert settings.data.eval_path == {
        "aime24": str(sets / "AIME_2024.parquet"),
        "gsm8k": str(sets / "gsm8k_test.jsonl.gz"),
        "amc23": "datasets:amc23",
        "new-set": str(tmp_path / "new set.jsonl"),
    }
    assert settings.evaluate.k_of == {"aime24": 32, "gsm8k": 4, "amc23": 32}
    assert not settings.sft.enabled
    assert compose([*words, "evaluate.k=6"]).evaluate.k_of == {}
    assert compose([*words, "evaluate.k=6", "evaluate.k_of.aime24=64"]).evaluate.k_of == {"aime24": 64}
    for word, said in (
        ("data.eval=aime42", "Did you mean data.eval=aime25?"),
        ("data.eval=[a.jsonl,b/a.csv]", "two sets called a"),
        ("evaluate.k_of.aime24=0", "a whole number >= 1"),
    ):
        with pytest.raises(UsageError) as caught:
            compose([*words, word])
        assert said in str(caught.value)
