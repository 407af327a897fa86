"""A comparison of an algorithm with itself: the null that every difference must pass, and what a failing arm leaves."""

import json
import shutil

PLAN = ("compare.seeds=1", "rl.steps=2", "evaluate.k=2")


def compare(house, *words: str):
    root = house.root("versus")
    for stage in ("preprocess", "sft", "convert"):
        if not (root / "runs" / "base" / stage).exists():
            shutil.copytree(house.root() / stage, root / "runs" / "base" / stage)
    result = house.run("compare", *words, name="versus")
    summary = json.loads((root / "compare.json").read_text()) if (root / "compare.json").exists() else None
    return result, summary, root


def test_an_algorithm_against_itself_differs_nowhere_and_a_failing_arm_is_reported(house):
    arms = ("compare.algos=[one,two]", "compare.arms.one=algo=etr", "compare.arms.two=algo=etr")
    result, summary, root = compare(house, *arms, *PLAN)
    assert result.code == 0, result.err
    assert {c["figure"]: c["verdict"] for c in summary["comparisons"]} == dict.fromkeys(
        ("final_accuracy", "area", "entropy", "kl"), "same"
    )
    one, two = (summary["arms"][arm]["runs"]["0"] for arm in ("one", "two"))
    assert one == two
    assert "is the same at every seed" in result.out
    assert "Paired differences" in (root / "compare.html").read_text()

    # Again: nothing is run twice. A third arm that cannot start is named, and the pairs that there are stay.
    broken = "compare.arms.broken=algo=etr algo.import_path=/nowhere.py:loss"
    result, summary, root = compare(house, "compare.algos=[one,two,broken]", *arms[1:], broken, *PLAN)
    assert result.code == 0, result.err
    assert "2 of 3 runs are there already" in result.out
    assert list(summary["failed"]) == ["broken-seed0"]
    assert "/nowhere.py" in summary["failed"]["broken-seed0"]
    assert summary["arms"]["broken"]["seeds"] == []
    assert len(summary["comparisons"]) == 4


def test_wrong_arms_are_refused(house):
    for words, message in (
        (["compare.algos=etr"], "at least two"),
        (["compare.algos=etr,grop"], "grop is neither"),
        (["compare.algos=etr,other", "compare.arms.other=seed=3"], "seed=3 is set by the comparison"),
    ):
        result = house.run("compare", *words, name="wrong")
        assert result.code == 2, result.err
        assert message in result.err
