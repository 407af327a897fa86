"""`stage=plan search=true`: what fits is ranked, what does not is explained, and the seconds are those of a rehearsal."""

import shlex

import pytest
from cli import preset

from pipeline.run import cli, plan
from pipeline.run.compose import compose
from pipeline.run.memory import GIB, host
from pipeline.run.pace import published
from pipeline.run.roofline import predict
from pipeline.run.search import choices, obstacle, search

NODE = ["stage=rl", "model=32b", "cluster=gpu8"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_what_is_printed_can_be_typed_and_fits():
    """32b on one node of 80 GiB devices, where the preset as it is does not fit."""
    settings = compose(NODE)
    assert obstacle(settings) == "generating does not fit|103.2 GiB"
    text = search(settings)
    rows = [
        line.split(maxsplit=5)
        for line in text.splitlines()
        if line.endswith(("true", "optimizer")) and "GiB" not in line
    ]
    assert len(rows) >= 5
    seconds = [float(row[0]) for row in rows]
    assert seconds == sorted(seconds)
    for row in rows:
        typed = compose([*NODE, *shlex.split(row[5])])
        plan.check(typed)
        memory = plan.memory_of(typed)
        assert memory.peak == pytest.approx(float(row[4]) * GIB, abs=0.06 * GIB)
        assert memory.peak <= 80 * GIB
        assert host(typed, memory, on_gpu=True)[0] <= 1024 * GIB
        assert predict(typed, memory).step == pytest.approx(float(row[0]), abs=0.06)
    for reason in ("weights, gradients and optimizer do not fit", "generating does not fit", "the node's memory"):
        assert reason in text


@pytest.mark.parametrize(("cluster", "rehearsed"), [("gpu8", 668), ("gpu8-141g", 878)])
def test_seconds_are_near_a_rehearsals(cluster, rehearsed):
    """docs/cluster.md has the rehearsed figures, from the operators of the real code."""
    settings = compose(["stage=rl", "model=32b", f"cluster={cluster}", "cluster.nnodes=4"])
    found = predict(settings, plan.memory_of(settings))
    assert found.tokens_per_second == pytest.approx(rehearsed, rel=0.15)
    assert "571 tokens/s/GPU" in published(settings, 32)


def test_levers_cost_what_they_cost():
    settings = compose(["stage=rl", "model=8b", "cluster=gpu8", "cluster.nnodes=2"])

    def step(*words: str) -> float:
        changed = compose(["stage=rl", "model=8b", "cluster=gpu8", "cluster.nnodes=2", *words])
        return predict(changed, plan.memory_of(changed)).step

    none, selective, full = (step(f"rl.recompute={word}") for word in ("none", "selective", "full"))
    assert none < selective < full
    assert none < step("rl.optimizer.cpu_offload=true") < step("rl.optimizer.cpu_offload=true", "rl.offload=optimizer")
    assert step("rl.overlap_grad_reduce=true") < none
    assert none == predict(settings, plan.memory_of(settings)).step


def test_experts_and_the_native_engine_have_their_own_choices():
    routed = {settings.layout.ep for _, settings in choices(compose(["stage=rl", "model=30b-a3b", "cluster=gpu8"]))}
    assert routed == {1, 2, 4, 8}
    native = choices(compose(["stage=rl", "model=0.6b", "cluster=gpu8", "rollout.engine=native"]))
    assert {settings.layout.pp for _, settings in native} == {1}


def test_the_command(tmp_path, capsys):
    assert cli.main(["stage=plan", f"model={preset(tmp_path)}", "cluster=gpu8", "model.dtype=bf16", "search=true"]) == 0
    out = capsys.readouterr().out
    assert "tokens/s/GPU" in out
    assert "Why the others do not fit" in out
