"""A killed run continues with what was in flight: rounds that were sampled ahead, or responses that are not whole yet. It ends
as if nothing had happened.

Two ranks at TP 2, native engine. The run is killed with SIGKILL at a random step, at whatever moment that is.
"""

import random

import pytest
from house import kill_all, rows, steps_done, until
from safetensors.torch import load_file

IN_FLIGHT = {"ahead": ["rl.async_depth=2"], "partial": ["rollout.partial_tokens=6"]}


@pytest.mark.parametrize("kind", ["partial", pytest.param("ahead", marks=pytest.mark.long)])  # a minute each
def test_what_is_in_flight_survives_a_kill(house, kind):
    words = [*IN_FLIGHT[kind], "rl.steps=5", "rl.save_every=1", "rl.export_every=5", "rl.keep_checkpoints=1"]
    straight, broken = (house.copy(f"{kind} {name}", "preprocess", "convert") for name in ("straight", "broken"))
    result = house.run("rl", *words, name=straight.name)
    assert result.code == 0, result.err
    written = rows(straight / "metrics.jsonl")
    assert max(row["rollout/version_lag_max"] for row in written) >= (2 if kind == "ahead" else 1)
    assert any("rollout/lag_1_tokens" in row for row in written)
    assert kind == "ahead" or sum(row["rollout/carried_tokens"] for row in written) > 0

    process = house.start("rl", *words, name=broken.name)
    last = random.Random(kind).randint(2, 3)
    until(lambda: steps_done(broken / "metrics.jsonl") >= last, process)
    kill_all(process)
    result = house.run("rl", *words, name=broken.name)
    assert result.code == 0, result.err
    assert "continuing after step" in result.out
    assert rows(broken / "metrics.jsonl") == written
    assert rows(broken / "samples.jsonl") == rows(straight / "samples.jsonl")
    one, other = (load_file(root / "exports" / "step_5" / "model.safetensors") for root in (straight, broken))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
