"""Routing replay: training visits the experts that it is given, at every layout and with every kind of recomputation.

Random experts for every position and layer (one position in ten is left to the router) make log-probs, gradient norm and the
step's tensors those of transformers, whose routers are made to use the same experts: a choice at another position, layer or
micro-batch shows. Recorded with one router and replayed with another, they give the log-probs that those experts have; what
the native engine records is what the actor's routers choose for the same tokens. fp32, so 1e-5 and after Adam's step 1e-4.
"""

from pathlib import Path

import pytest
from ranks import run_ranks

from pipeline.common.errors import UsageError
from pipeline.run import checks, cli
from pipeline.run.compose import compose

SCRIPT = Path(__file__).with_name("routing_ranks.py")


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])  # four: 20 s
def test_training_visits_the_experts_that_it_is_given(world_size):
    run_ranks(world_size, SCRIPT, world_size, timeout=240)


EXPERTS = ["stage=rl", "model=30b-a3b", "cluster=gpu8", "cluster.nnodes=1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rl.routing_replay=engine"], r"reads no choices of experts from vLLM\. Use rl\.routing_replay=actor"),
        (["rl.routing_replay=actor", "rl.old_logprobs=engine"], r"rl\.old_logprobs=engine makes none"),
        (
            ["rl.routing_replay=actor", "model.experts.count=256", "model.parameters=none"],
            "choices are kept in one byte",
        ),
        (
            ["rl.routing_replay=engine", "rollout.engine=native", "layout.pp=1", "rollout.partial_tokens=64"],
            "each round computes the beginning of a response again",
        ),
    ],
)
def test_choices_that_nobody_records_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        checks.check_training(compose([*EXPERTS, *words]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=tiny", "rl.routing_replay=actor"], "the model has no experts"),
        (
            ["model=30b-a3b", "cluster=gpu8", "rl.routing_replay=actor", "rl.minibatches=1"],
            "makes the choices of the pass",
        ),
    ],
)
def test_replay_that_changes_nothing_is_refused(words, said, capsys):
    assert cli.main(["stage=rl", *words, "dry_run=true"]) == 2
    assert said in capsys.readouterr().err
