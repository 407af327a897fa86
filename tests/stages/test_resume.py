"""Whatever interrupts a training, the same command continues it, and it ends as if nothing had happened.

An undisturbed run is the reference. On CPU every kernel is deterministic and every random choice is seeded by its step, so
weights must agree to the bit, and every step's row in all that is not a time. Not covered: GPUs, whose kernels promise less.
"""

import signal
from pathlib import Path

import pytest
from house import assert_gone, family, kill_all, ranks_of, rows, steps_done, until
from safetensors.torch import load_file

from pipeline.common.files import read_json


def assert_transformers_loads(folder: Path) -> None:
    """As it is: every weight finds its place and none is made up; the tokenizer comes along."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ids = AutoTokenizer.from_pretrained(str(folder))("3+4-2=", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], model.config.vocab_size)


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


SAVED = ["rl.async_save=true", "rl.export_every=4", "rl.keep_best=reward/mean", "rl.keep_checkpoints=1"]
"""No result depends on how checkpoints are written, exported and kept."""


def test_rl_ends_the_same_after_ctrl_c_a_dead_rank_and_a_killed_machine(house, trained):
    straight = trained
    broken = house.copy("broken", "preprocess", "convert")
    metrics = broken / "metrics.jsonl"

    process = house.start("rl", *SAVED, name="broken")
    until(lambda: steps_done(metrics) >= 1, process)
    everyone = family(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "finishing the step" in err
    assert "the same command continues" in out
    assert_gone(everyone)
    done = steps_done(metrics)
    saved = (broken / "checkpoints" / "latest_checkpointed_iteration.txt").read_text()
    assert int(saved) == done < 8  # nothing of the finished steps is lost

    process = house.start("rl", *SAVED, name="broken")
    until(lambda: steps_done(metrics) > done, process)
    everyone, victim = family(process), ranks_of(process, "rl")[1]
    victim.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert err.strip().splitlines()[-1].startswith("Rank ")
    assert f"(process {victim.pid}) was killed by SIGKILL" in err.strip().splitlines()[-1]
    assert f"continuing after step {done} of 8" in out
    assert_gone(everyone)

    process = house.start("rl", *SAVED, name="broken")
    writing = broken / "checkpoints" / ".iter_0000006.writing"
    until(lambda: writing.exists() or steps_done(metrics) >= 6, process)  # if it can be caught: in the middle of saving
    kill_all(process)

    result = house.run("rl", *SAVED, name="broken")
    assert result.code == 0, result.err
    assert rows(metrics) == rows(straight / "metrics.jsonl")
    assert rows(broken / "samples.jsonl") == rows(straight / "samples.jsonl")
    for name in ("straight", "broken"):
        result = house.run("export", "cluster.devices_per_node=1", "layout.tp=1", name=name)
        assert result.code == 0, result.err
    assert_same_weights(straight / "export" / "hf", broken / "export" / "hf")
    assert_same_weights(straight / "export" / "hf", broken / "exports" / "step_8")
    kept = {int(path.name[5:]) for path in (broken / "checkpoints").glob("iter_*")}
    best = read_json(broken / "checkpoints" / "best.json")["iteration"]
    assert kept == {best, 8}
    assert {path.name for path in (broken / "exports").iterdir()} == {f"step_{n}" for n in kept if n % 4 == 0}
    assert not list((broken / "checkpoints").glob(".iter_*"))
    with pytest.raises(AssertionError):  # it did learn something that could have differed
        assert_same_weights(straight / "export" / "hf", house.root() / "sft" / "hf")
    assert_transformers_loads(straight / "export" / "hf")


def test_the_warm_up_ends_the_same_after_a_killed_machine(house):
    broken = house.copy("cold", "preprocess")
    metrics = broken / "sft" / "metrics.jsonl"
    process = house.start("sft", name="cold")
    until(lambda: steps_done(metrics) >= 7, process)
    kill_all(process)
    torn = broken / "sft" / "checkpoints" / ".latest.a1b2.tmp"  # as a kill within the write leaves it
    torn.touch()
    result = house.run("sft", name="cold")
    assert result.code == 0, result.err
    assert not torn.exists()
    assert "continuing after step" in result.out
    assert rows(metrics) == rows(house.root() / "sft" / "metrics.jsonl")
    assert_same_weights(broken / "sft" / "hf", house.root() / "sft" / "hf")
    assert "FutureWarning" not in result.err
    assert "it/s" not in result.err


def test_two_nodes_make_the_same_steps_as_one(house):
    """Two agents with one rank each, which meet at node 0's port, are the same world of two ranks."""
    from ranks import free_port

    paired = house.copy("paired", "preprocess", "convert")
    words = [
        "cluster.nnodes=2", "cluster.devices_per_node=1", f"cluster.master_port={free_port()}",
        "cluster.threads_per_rank=1", "rl.steps=2",  # as many threads as beside another rank: they sum in another order
    ]  # fmt: skip
    nodes = [house.start("rl", *words, f"cluster.node_rank={node}", name="paired") for node in (0, 1)]
    for node in nodes:
        _, err = node.communicate(timeout=240)
        assert node.returncode == 0, err
    alone = house.copy("alone", "preprocess", "convert")
    result = house.run("rl", "cluster.threads_per_rank=1", "rl.steps=2", name="alone")
    assert result.code == 0, result.err
    assert rows(paired / "metrics.jsonl") == rows(alone / "metrics.jsonl")
