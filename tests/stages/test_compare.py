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

    # Again: nothing is run twice. A third arm that crashes is named, and the pairs that there are stay.
    loss = house.folder / "crashes.py"
    loss.write_text(
        "def loss(x, config):\n    assert len(x.logp) <= 8, 'too many tokens'\n    return -x.advantages * x.logp\n"
    )
    broken = f"compare.arms.broken=algo.import_path='{loss}:loss'"
    result, summary, root = compare(house, "compare.algos=[one,two,broken]", *arms[1:], broken, *PLAN)
    assert result.code == 0, result.err
    assert "2 of 3 runs are there already" in result.out
    assert list(summary["failed"]) == ["broken-seed0"]
    assert "too many tokens" in (root / "compare" / "logs" / "broken-seed0.log").read_text()
    assert "exit code" in summary["failed"]["broken-seed0"]
    assert "FAILED broken-seed0" in result.out
    assert summary["arms"]["broken"]["seeds"] == []
    assert len(summary["comparisons"]) == 4
