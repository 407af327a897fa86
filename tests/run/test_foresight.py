"""The simulation of waiting, on cases worked out by hand; and what the plan makes of a run's files."""

import random

import pytest
from cli import preset

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import write_jsonl, write_text
from pipeline.rl import partial
from pipeline.run import cli
from pipeline.run.foresight import foresee, lengths_of, measure
from pipeline.run.pace import Pace
from pipeline.run.simulation import BATCHES_UNDER_WAY, MODES, Engine, Work, decode, simulate
from pipeline.settings import Plan


def work(**changes) -> Work:
    """Four responses of 10 tokens on one engine, a second a decode step."""
    return Work(**{
        "lengths": [[10]], "responses": 4, "engines": 1, "slots": 4, "decode_base": 1.0, "decode_each": 0.0, "actor": 10.0
    } | changes)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 20),  # 10 decode steps, then 10 s of training
        ({"slots": 2}, 30),  # two rounds of two sequences
        ({"engines": 2, "slots": 2}, 20),
        ({"decode_base": 0.0, "decode_each": 1.0}, 50),  # a step of four sequences takes 4 s
        ({"engines": 2, "decode_base": 0.0, "decode_each": 1.0}, 30),  # two sequences on each engine
        ({"sync": 3.0}, 23),
        ({"start_each": 0.5}, 22),  # an engine starts its sequences one after the other
        ({"start_each": 0.5, "slots": 2}, 32),
    ],
)
def test_step_by_step_adds_up(changes, seconds):
    found = simulate(work(**changes), "step by step")
    assert found.seconds == pytest.approx(seconds)
    training = 10 + changes.get("sync", 0.0)
    assert found.actor_idle == pytest.approx(1 - training / seconds)
    assert found.engines_idle == pytest.approx(training / seconds)


def test_one_step_ahead_takes_as_long_as_the_slower_of_the_two():
    # Twenty steps: the first batch has nothing beside it.
    assert simulate(work(), "one step ahead", steps=20).seconds == pytest.approx((10 + 20 * 10) / 20)
    assert simulate(work(actor=4.0), "one step ahead", steps=20).seconds == pytest.approx((20 * 10 + 10) / 20)
    slow = simulate(work(actor=30.0, sync=5.0), "one step ahead", steps=20)
    assert slow.seconds == pytest.approx((10 + 20 * 35) / 20)
    # In the last step a batch is sampled ahead as well, which no simulated step trains.
    assert slow.engines_idle == pytest.approx(1 - 21 * 10 / 710)


def test_a_long_tail_makes_the_modes_differ():
    lengths = [10] * 15 + [80]  # one in sixteen is eight times the median, so nearly every batch has one
    tail = work(lengths=[lengths], responses=64, engines=2, slots=64, actor=40.0)
    steps, ahead, partial = (simulate(tail, mode) for mode in MODES)
    assert steps.seconds == pytest.approx(120, rel=0.02)
    assert ahead.seconds == pytest.approx(80, rel=0.02)
    assert steps.engines_idle > ahead.engines_idle
    # In groups of one and rounds of 10, more than half of the responses under way are short: hardly a step has a second round.
    assert partial.seconds == pytest.approx(50, rel=0.05)


def test_responses_to_one_problem_have_similar_lengths():
    """One problem in eight is long: half of the batches of four groups have none, though nearly all would have some of 32
    responses that are long independently."""
    problems = [[10]] * 7 + [[80]]
    groups = simulate(work(lengths=problems, responses=32, group=8, slots=32), "step by step")
    assert groups.seconds == pytest.approx(10 + 10 + 70 * (1 - (7 / 8) ** 4), rel=0.05)
    mixed = simulate(work(lengths=[[10] * 7 + [80]], responses=32, group=8, slots=32), "step by step")
    assert mixed.seconds == pytest.approx(10 + 10 + 70 * (1 - (7 / 8) ** 32), rel=0.05)


def test_rounds_of_whole_groups():
    # Groups of two; one in two responses has 30 tokens. The simulation draws 30, 10, 10, 30, 10, 10, 30, 10 and so on.
    assert BATCHES_UNDER_WAY == partial.BATCHES_UNDER_WAY
    one = work(lengths=[[10, 30]], responses=4, group=2, slots=8, round_tokens=10, actor=1.0)
    draw = random.Random(0)
    groups = [one.draw_group(draw) for _ in range(4)]
    rounds = sorted(max(group) for group in groups)[1] // 10  # until the second group of four is whole
    assert simulate(one, "partial", steps=1).seconds == pytest.approx(10 * rounds + 1)
    # With a round that ends every response, every second step finds its batch whole.
    whole = work(lengths=[[10]], responses=4, group=2, slots=8, round_tokens=10, actor=1.0)
    assert simulate(whole, "partial", steps=10).seconds == pytest.approx((5 * 10 + 10 * 1.0) / 10)


def test_slots_are_filled_as_sequences_end():
    engines = [Engine(work(slots=2)) for _ in range(2)]
    assert decode(engines, 2, [5, 3, 9, 2, 4, 1]) == 9
    assert [engine.made for engine in engines] == [9, 6]


def run_folder(root, rl="", rollout="", rows=9):
    """What stage=rl leaves of a run on two ranks at TP 2 whose decode step takes 2 + 0.5 n ms and a start 10 ms; a batch is
    4 x 2 responses."""
    text = (
        "{stage: rl, model_name: m, algo_name: a, data_name: d, cluster_name: c, name: past, layout: {tp: 2},"
        " cluster: {device: cpu, devices_per_node: 2}, model: {family: qwen3, num_layers: 2, hidden_size: 64,"
        " ffn_hidden_size: 128, num_attention_heads: 4, num_query_groups: 2, head_dim: 16, vocab_size: 64,"
        f" max_position_embeddings: 256}}, rl: {{prompts_per_step: 4, group_size: 2{rl}}},"
        f" rollout: {{engine: native{rollout}}}}}"
    )
    write_text(root / "config.yaml", text)
    metrics = [
        {
            "step": step,
            "length/max": 40 + step % 5,
            "speed/generated_tokens": 150.0 + 7 * step * step,
            "seconds/sync": 0.25,
        }
        for step in range(1, rows + 1)
    ]
    for row in metrics:
        row["speed/sampling_s"] = 0.002 * row["length/max"] + 0.0005 * row["speed/generated_tokens"] + 0.01 * 8
        row["seconds/generate"] = row["speed/sampling_s"]
        row["seconds/step"] = row["seconds/generate"] + 0.25 + 3.0
    metrics[0]["speed/sampling_s"] = 100.0
    write_jsonl(root / "metrics.jsonl", metrics)
    write_jsonl(root / "samples.jsonl", [{"step": 1, "responses": [{"tokens": n} for n in (12, 40, 0, 20)]}])
    return root


def test_the_rates_of_a_run_are_read_off_its_metrics(tmp_path):
    found = measure(run_folder(tmp_path / "past"))
    assert found.decode == (pytest.approx(0.002), pytest.approx(0.0005), pytest.approx(0.01))
    assert (found.actor, found.sync) == (pytest.approx(3.0), 0.25)
    assert lengths_of(tmp_path / "past" / "samples.jsonl") == [[12, 40, 20]]
    for changes, said in (
        ({"rollout": ", partial_tokens: 8"}, "it sampled in rounds"),
        ({"rollout": ", max_concurrent: 4"}, "did not decode a whole batch at once"),
        ({"rows": 4}, "has 3 usable steps, and a fit needs 4"),
    ):
        with pytest.raises(InputError, match=said):
            measure(run_folder(tmp_path / "other", **changes))


def test_the_plan_prints_the_simulation(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    run_folder(tmp_path / "runs" / "past")
    (tmp_path / "lengths.txt").write_text("10\n10\n80\n")
    words = ["stage=plan", f"model={preset(tmp_path)}", f"runs_dir={tmp_path}/runs"]
    assert cli.main([*words, "plan.lengths=past", "plan.engines=2"]) == 0
    out = capsys.readouterr().out
    assert "on 2 engines of up to 256 sequences" in out
    assert "lengths of past: median 20, mean 24, longest 40" in out
    assert "takes 2 + 0.5 n ms, a sequence's start 10 ms, the actor 3 s a step, a sync 0.25 s (measured in past)" in out
    assert [line.split("  ")[1] for line in out.splitlines() if line.startswith(tuple(f"  {m}" for m in MODES))] == [
        *MODES
    ]
    assert "Partial has rounds of 5 tokens" in out
    assert "plan.lengths" not in out.partition("Waiting, simulated")[0]  # in no command that is to be typed
    given = ["plan.lengths=lengths.txt", "plan.decode_ms=5,0.1,2"]
    assert cli.main([*words, *given, "plan.actor_s=7"]) == 0
    assert (
        "takes 5 + 0.1 n ms, a sequence's start 2 ms, the actor 7 s a step, a sync 0 s (given)"
        in capsys.readouterr().out
    )
    assert cli.main([*words, *given]) == 2
    assert "give plan.actor_s, or name a run that has measured it" in capsys.readouterr().err
    assert cli.main([*words, "plan.lengths=nothing"]) == 3
    assert "nothing cannot be read as response lengths" in capsys.readouterr().err
    assert cli.main([*words, "plan.engines=2"]) == 2
    assert "plan.engines=2 has no effect: nothing is simulated" in capsys.readouterr().err


def test_a_rehearsal_gives_the_actors_seconds(tmp_path, monkeypatch):
    from pipeline.run.compose import compose

    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "lengths.txt").write_text("10 10 80")
    pace = Pace(generation=1.0, logprobs=2.0, update=5.0, sync=0.5, tokens_per_second=1.0, mfu=0.1)
    words = ["stage=rl", f"model={preset(tmp_path)}", "rl.group_size=16", "cluster=gpu8"]
    plan = Plan(lengths=str(tmp_path / "lengths.txt"))
    text = foresee(compose([*words, "rollout.engine=vllm"]), plan, pace)
    assert "the actor 7 s a step, a sync 0.5 s (by the rehearsal)" in text
    with pytest.raises(UsageError, match=r"give plan\.decode_ms=\[a,b\]"):
        foresee(compose([*words, "rollout.engine=native"]), plan, pace)


def test_decoding_has_two_or_three_rates():
    for wrong in ([1.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0, 1.0]):
        with pytest.raises(ValueError, match="takes two or three numbers"):
            Plan(lengths="x", decode_ms=wrong)
