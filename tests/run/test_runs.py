"""A run's records: what is skipped, what runs again and why, what is moved aside, and the message for a missing stage.

The stages' own code is replaced (conftest.py); the command line, the manifests and the supervision are the real ones.
"""

import json

import pytest
from cli import preset, worked

from pipeline.common.files import read_json, write_json
from pipeline.run import manifests
from pipeline.run.catalog import ORDER, STAGES, Job
from pipeline.run.compose import compose
from pipeline.run.manifests import State
from pipeline.run.summary import mean_accuracy, write_summary


def test_everything_runs_in_order_once_and_ends_with_a_summary(tmp_path, run):
    code, out, err = run("stage=all")
    assert code == 0, err
    assert worked(out) == ["preprocess", "sft", "convert", "evaluate", "rl", "export", "evaluate", "report"]
    root = tmp_path / "runs" / "mini"
    summary = read_json(root / "summary.json")
    assert summary["accuracy"]["before"] == {"avg@8": 0.5, "greedy": 0.25, "pass@8": 1.0}
    assert summary["accuracy"]["after"]["greedy"] == 0.75
    assert set(summary["seconds"]) == {"preprocess", "sft", "convert", "evaluate", "rl", "export", "report"}
    assert read_json(root / "environment.json")["versions"]["torch"].startswith("2.13.0")
    manifest = read_json(root / "rl" / "manifest.json")
    assert manifest["result"] == {"steps": 200}
    assert "convert@latest" in manifest["inputs"]
    code, out, _ = run("stage=all")
    assert code == 0
    assert worked(out) == []
    assert out.count("skipped, its manifest matches") == 8
    code, out, _ = run("stage=all", "verify.workers=3", "rl.save_every=7")  # no result depends on these
    assert worked(out) == []


def test_a_change_runs_again_what_depends_on_it_and_says_why(run):
    run("stage=all")
    code, out, _ = run("stage=all", "evaluate.k=4")
    assert code == 0
    assert worked(out) == ["evaluate", "evaluate"]  # with the same result, so the report stays
    assert "evaluate.k 8 -> 4" in out
    code, out, _ = run("stage=export", "export.dtype=fp32")
    assert worked(out) == ["export"]
    assert "export.dtype model -> fp32" in out
    code, out, _ = run("stage=export", "export.dtype=fp32", "force=true")
    assert worked(out) == ["export"]


def test_another_template_concerns_every_stage_that_shows_problems(run):
    run("stage=all")
    run("stage=rollout")
    for stage in ("sft", "evaluate", "rollout"):
        _, out, _ = run(f"stage={stage}", "data.template=bare")
        assert set(worked(out)) == {stage}
        assert "data.template auto -> bare" in out
    code, _, err = run("stage=rl", "data.template=bare")
    assert code == 2
    assert "data.template auto -> bare" in err


def test_evaluate_depends_on_how_answers_are_compared(run):
    run("stage=all")
    _, out, _ = run("stage=evaluate", "verify.percent=same")
    assert worked(out) == ["evaluate", "evaluate"]
    assert "verify.percent either -> same" in out


LATER = {"sft", "convert", "evaluate:before", "evaluate:after", "rollout"}
DEPENDS = {
    "model.dtype=bf16": {*LATER, "rl", "export"},
    "model.norm_eps=1e-5": {*LATER, "rl", "export"},
    "model.rope.theta=5000": {*LATER, "rl", "export"},
    "seed=1": {*LATER, "rl", "preprocess"},
    "rollout.engine=native": {"evaluate:before", "evaluate:after", "rollout", "rl"},
    "rollout.max_new_tokens=60": {"evaluate:before", "evaluate:after", "rollout", "rl"},
    "rollout.temperature=0.9": {"rollout", "rl"},
    "verify.percent=same": {"evaluate:before", "evaluate:after", "rollout", "rl", "report"},
    "report.audit_rows=5": {"report"},
    "export.dtype=fp32": {"export"},
    "evaluate.k=4": {"evaluate:before", "evaluate:after"},
    "rl.save_every=3": set(),
    "rl.async_save=true": set(),
    "rl.keep_samples=0": set(),
    "layout.tp=1": set(),
}
"""What of a finished run no longer matches under another setting."""


def test_each_stage_depends_on_what_it_reads(tmp_path, run):
    run("stage=all")
    run("stage=rollout")
    run("stage=report")  # it audits the offline rollouts, too
    root, words = (
        tmp_path / "runs" / "mini",
        [f"model={preset(tmp_path)}", f"runs_dir={tmp_path / 'runs'}", "name=mini"],
    )
    for word, expected in DEPENDS.items():
        changed = set()
        for name in (*ORDER, "rollout"):
            stage, _, variant = name.partition(":")
            which = [f"evaluate.checkpoint={variant}"] if variant else []
            job = Job(STAGES[stage], compose([f"stage={stage}", *words, *which, word]), variant or None)
            if manifests.why_run(job, root, manifests.state_of(job, root)):
                changed.add(name)
        assert changed == expected, word


def test_the_report_follows_the_warm_ups_curve(tmp_path, run):
    run("stage=all")
    (tmp_path / "runs" / "mini" / "sft" / "metrics.jsonl").write_text('{"step": 1}\n')
    _, out, _ = run("stage=report")
    assert worked(out) == ["report"]
    assert "sft/metrics.jsonl has changed" in out


def test_rl_depends_on_the_users_own_functions(tmp_path, run):
    (tmp_path / "own.py").write_text("def loss(x, config): ...")
    for stage in ("preprocess", "sft", "convert"):
        run(f"stage={stage}")
    assert run("stage=rl", "algo.import_path=own.py:loss")[0] == 0
    assert worked(run("stage=rl", "algo.import_path=own.py:loss")[1]) == []
    (tmp_path / "own.py").write_text("def loss(x, config): return 1")
    code, _, err = run("stage=rl", "algo.import_path=own.py:loss")
    assert code == 2
    assert f"{tmp_path / 'own.py'} has changed" in err


def test_rollout_follows_the_trained_actor(tmp_path, run):
    for stage in ("preprocess", "sft", "convert", "rollout"):
        run(f"stage={stage}")
    _, out, _ = run("stage=rollout")
    assert worked(out) == []
    run("stage=rl", "rl.steps=5")
    _, out, _ = run("stage=rollout")
    assert worked(out) == ["rollout"]
    assert "checkpoints@latest has changed" in out
    assert (tmp_path / "runs" / "mini" / "rollout" / "shards.old-1").is_dir()
    _, out, _ = run("stage=rollout")
    assert worked(out) == []


def test_a_damaged_output_is_made_again(tmp_path, run):
    run("stage=preprocess")
    (tmp_path / "runs" / "mini" / "preprocess" / "train.jsonl").write_text("")
    _, out, _ = run("stage=preprocess")
    assert worked(out) == ["preprocess"]
    assert "is not as the stage left it" in out


def test_a_missing_earlier_stage_is_told_the_command(run):
    code, _, err = run("stage=rl", "rl.steps=3")
    assert code == 3
    assert "stage=preprocess has not finished" in err
    assert "bash run.sh stage=preprocess rl.steps=3 model=" in err
    run("stage=preprocess")
    code, _, err = run("stage=convert")
    assert code == 3
    assert "Run: bash run.sh stage=sft" in err
    code, out, _ = run("stage=convert", "sft.enabled=false")
    assert code == 0
    code, out, _ = run("stage=sft", "sft.enabled=false")
    assert code == 0
    assert "skipped (sft.enabled=false)" in out


def test_rl_continues_under_harmless_changes_and_refuses_others(tmp_path, run, monkeypatch):
    for stage in ("preprocess", "sft", "convert"):
        run(f"stage={stage}")
    monkeypatch.setenv("TEST_DIE", "rl")
    code, _, err = run("stage=rl", "rl.steps=4")
    assert code == 1
    assert "RuntimeError: died" in err
    monkeypatch.delenv("TEST_DIE")
    root = tmp_path / "runs" / "mini"
    code, _, err = run("stage=rl", "rl.steps=8", "algo.alpha=0.5", "rl.save_every=1")
    assert code == 2
    assert "algo.alpha 0.25 -> 0.5" in err
    assert "rl.steps" not in err
    assert "force=true" in err
    assert (root / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "4"
    code, _, err = run("stage=rl", "rl.steps=8")
    assert code == 0, err
    assert not list(root.glob("checkpoints.old-*"))
    code, out, _ = run("stage=rl", "rl.steps=8", "algo.alpha=0.5", "force=true")
    assert code == 0
    assert "moved aside to" in out
    assert (root / "checkpoints.old-1" / "latest_checkpointed_iteration.txt").read_text() == "8"
    assert (root / "metrics.jsonl.old-1").exists()
    run("stage=rl", "rl.steps=8", "algo.alpha=0.5", "force=true")
    assert (root / "checkpoints.old-2").is_dir()


def test_rl_refuses_checkpoints_of_another_base_model(run):
    for stage in ("preprocess", "sft", "convert", "rl"):
        run(f"stage={stage}")
    for stage in ("preprocess", "sft", "convert"):
        assert run(f"stage={stage}", "seed=1", "name=mini")[0] == 0
    code, _, err = run("stage=rl", "seed=1", "name=mini")
    assert code == 2
    assert "seed 0 -> 1" in err


def test_evaluate_takes_what_there_is(run):
    for stage in ("preprocess", "sft", "convert"):
        run(f"stage={stage}")
    code, out, _ = run("stage=evaluate")
    assert code == 0
    assert worked(out) == ["evaluate"]
    run("stage=rl")
    code, out, _ = run("stage=evaluate")
    assert "evaluate (before): skipped" in out
    assert worked(out) == ["evaluate"]
    code, _, err = run("stage=evaluate", "evaluate.checkpoint=after", "name=other")
    assert code == 3
    assert "stage=preprocess has not finished" in err


def test_several_stages_on_several_nodes_are_refused(run):
    code, _, err = run("stage=all", "cluster.nnodes=2")
    assert code == 2
    assert "docs/cluster.md" in err


def test_too_few_gpus_are_told_before_anything_starts(run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run("stage=preprocess")
    code, out, err = run("stage=sft", "cluster=gpu8")
    assert code == 2
    assert "cluster.devices_per_node=8" in err
    assert "offers 0 GPUs" in err
    assert worked(out) == []


def test_a_port_in_use_is_told_by_node_0(run):
    import socket

    run("stage=preprocess")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("stage=sft", "cluster.nnodes=2", f"cluster.master_port={port}")
    assert code == 2
    assert f"cluster.master_port={port} is in use" in err


@pytest.mark.parametrize("damage", ["[]", "{", '{"config": {}}', "\xff"])
def test_a_damaged_record_of_another_stage_is_said_and_no_stage_fails_for_it(tmp_path, run, damage):
    run("stage=all")
    root = tmp_path / "runs" / "mini"
    for name in ("evaluate/manifest.json", "evaluate/before.json"):
        (root / name).write_bytes(damage.encode("latin-1"))
    code, out, err = run("stage=convert", "force=true")
    assert code == 0, err
    assert "convert: done" in out
    assert f"{root / 'evaluate' / 'before.json'}" in err
    assert "left out of summary.json" in err
    summary = read_json(root / "summary.json")
    assert set(summary["seconds"]) == {"preprocess", "sft", "convert", "rl", "export", "report"}
    assert set(summary["accuracy"]) == {"after"}


def test_accuracy_is_the_mean_over_problems(tmp_path):
    sets = {
        "a": {"n": 1, "greedy": 1.0, "avg@8": 0.5, "avg@8_ci": [0, 1], "pass@8": 1.0},
        "b": {"n": 3, "greedy": 0.0, "avg@8": 0.1, "pass@8": 0.2, "avg@4": 1.0},
    }
    assert mean_accuracy(sets) == pytest.approx({"greedy": 0.25, "avg@8": 0.2, "pass@8": 0.4})
    assert mean_accuracy({}) == {}
    write_json(tmp_path / "evaluate" / "after.json", {"sets": sets})
    assert list(write_summary(tmp_path)["accuracy"]) == ["after"]
    assert json.loads((tmp_path / "summary.json").read_text())["seconds"] == {}


def test_a_judge_may_move_to_another_server_and_no_other_may_take_its_place(tmp_path):
    words = ["stage=rl", f"model={preset(tmp_path)}"]
    first, moved, other = (
        manifests.flat(compose([*words, f"verify.judge={address}", f"verify.judge_model={model}"]), ("verify",))
        for address, model in (("node0:8000", "a"), ("node1:8001", "a"), ("node0:8000", "b"))
    )
    assert first == moved
    assert first != other


def test_a_setting_that_is_younger_than_a_record_counts_as_its_default():
    """A run goes on after an upgrade that brought new settings."""
    assert not State({"rl.steps": 5, "verify.digits": 4}, {}).changed_from({"config": {"rl.steps": 5}})
    assert State({"verify.digits": 3}, {}).changed_from({"config": {}}) == ["verify.digits 4 -> 3"]


def test_a_setting_in_an_old_record_on_which_no_result_depends_any_more_changes_nothing():
    old = {"config": {"rl.lr": 5, "rl.optimizer.distributed": False, "rl.recompute": "full"}}
    assert State({"rl.lr": 6}, {}).changed_from(old) == ["rl.lr 5 -> 6"]
