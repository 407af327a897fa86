"""Whole runs of stage=rl with levers: what they learn, what they continue from, and what a replay makes of them.

Two ranks over gloo, native engine, fp32, where levers change no bit.
"""

import pytest
from house import MICRO, House, kill_all, rows, steps_done, until
from safetensors.torch import load_file

from pipeline.common.files import read_json

pytestmark = pytest.mark.long  # two minutes of processor time

EXPERTS = "\n".join(
    {"  family: qwen3": "  family: qwen3_moe\n  experts: {count: 6, per_token: 2, ffn_hidden_size: 16}"}.get(line, line)
    for line in MICRO.replace("tp: 2, micro", "ep: 2, micro").splitlines()
)


def test_recomputation_and_offload_learn_the_same_to_the_bit(house, trained):
    house.copy("levers", "preprocess", "convert")
    words = ["rl.recompute=full", "rl.optimizer.cpu_offload=true", "rl.offload=gradients,optimizer"]
    result = house.run("rl", *words, name="levers")
    assert result.code == 0, result.err
    assert rows(house.root("levers") / "metrics.jsonl") == rows(trained / "metrics.jsonl")


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """A run of a model with six experts over two ranks, converted."""
    house = House(tmp_path_factory.mktemp("experts"))
    (house.folder / "micro.yaml").write_text(EXPERTS)
    for stage in ("preprocess", "convert"):
        result = house.run(stage, "sft.enabled=false")
        assert result.code == 0, result.err
    yield house
    house.close()


WORDS = ["sft.enabled=false", "rl.steps=4", "rl.save_every=1", "rl.export_every=4", "rl.optimizer.decay=constant",
         "rl.optimizer.lr=0.01"]  # fmt: skip


@pytest.mark.parametrize("who", ["engine", "actor"])
def test_replayed_routing_survives_a_kill_and_is_replayed_to_the_bit(routed, who):
    """The engine's choices are kept with batches sampled ahead, in checkpoints and in what stage=replay reads."""
    words = [*WORDS, f"rl.routing_replay={who}", *["rl.async_depth=1"] * (who == "engine")]
    straight, broken = (routed.copy(f"{who} {name}", "preprocess", "convert") for name in ("straight", "broken"))
    result = routed.run("rl", *words, name=straight.name)
    assert result.code == 0, result.err
    process = routed.start("rl", *words, name=broken.name)
    until(lambda: steps_done(broken / "metrics.jsonl") >= 2, process)
    kill_all(process)
    result = routed.run("rl", *words, name=broken.name)
    assert result.code == 0, result.err
    assert "continuing after step" in result.out
    assert rows(broken / "metrics.jsonl") == rows(straight / "metrics.jsonl")
    one, other = (load_file(root / "exports" / "step_4" / "model.safetensors") for root in (straight, broken))
    assert all(one[name].equal(other[name]) for name in one)
    if who == "engine":
        result = routed.run("replay", "step=4", *words, name=straight.name)
        assert result.code == 0, result.err
        found = read_json(straight / "replay" / "step_0000004.json")
        assert [entry for entry in found["metrics"] if entry["then"] != entry["now"]] == []
