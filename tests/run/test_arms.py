"""`stage=compare` refuses an arm that none of its runs could start with, before anything runs, also in a dry run."""

import pytest

from pipeline.run import arms, cli


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls the command line in an empty folder; returns the exit code and all that it prints."""
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["stage=compare", "model=tiny", f"runs_dir={tmp_path / 'runs'}", *words])
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    return run


@pytest.mark.parametrize("more", [(), ("dry_run=true",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare.algos=etr"], "at least two"),
        (["compare.algos=etr,etr"], "at least two"),
        (["compare.algos=etr,grop"], "grop is neither"),
        (["compare.algos=etr,b", "compare.arms.b=seed=3"], "seed=3 is set by the comparison"),
        (
            ["compare.algos=etr,b", "compare.arms.b=algo.betta=3"],
            "compare.arms.b: algo.betta: there is no such setting",
        ),
        (["compare.algos=etr,b", "compare.arms.b=algo=grop"], "compare.arms.b: algo=grop"),
        (
            ["compare.algos=etr,b", "compare.arms.b=algo=grpo algo.alpha=1"],
            "compare.arms.b: algo.alpha=1 has no effect",
        ),
        (["compare.algos=etr,b", "compare.arms.b=algo.import_path=no.py:loss"], "compare.arms.b: algo.import_path"),
        (["compare.algos=etr,grpo", "algo.kl=k1"], "algo.kl=k1 has no effect"),
        (["compare.algos=etr,gspo", "rl.token_head=fused"], "compare.arms.gspo: rl.token_head=fused"),
    ],
)
def test_wrong_arms_are_refused(call, tmp_path, words, message, more):
    code, text = call(*words, *more)
    assert code in (2, 3), text
    assert message in text
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_the_comparison_makes_and_makes_nothing(call, tmp_path):
    words = ("compare.algos=etr,etr_micro,low", "compare.seeds=3", "compare.arms.low=algo=dapo algo.eps_high=0.2")
    code, text = call(*words, "algo.alpha=0.5", "dry_run=true")
    assert code == 0, text
    assert "3 arms x 3 seeds = 9 runs" in text
    assert "etr_micro: algo=etr_micro" in text
    assert "low: algo=dapo algo.eps_high=0.2" in text
    assert not (tmp_path / "runs").exists()


def test_an_arms_own_keys_win_over_those_of_all_runs():
    shared = ["model=tiny", "algo.eps_high=0.14", "algo.alpha=0.5", "rl.steps=9"]
    assert arms.effective("rl", shared, ["algo=etr"]) == shared
    # bapo starts from its own upper bound, and alpha has no effect on it.
    assert arms.effective("rl", shared, ["algo=bapo", "algo.eps_high=0.2"]) == ["model=tiny", "rl.steps=9"]


def test_an_arm_may_repeat_a_key_of_all_runs(call):
    words = ("compare.algos=etr,b", "compare.arms.b=algo=bapo algo.eps_high=0.2", "algo.eps_high=0.14", "dry_run=true")
    code, text = call(*words)
    assert code == 0, text
