"""Run by test_poison.py on two real ranks: what is not finite on one of them is skipped on both."""

import math
import os
import sys

from experiences import random_experience
from tiny_models import tiny_model

from megatron_patches import parallel
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.common.errors import DivergenceError
from pipeline.settings import Algo, Layout, Optimizer, Rl, Rollout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

MODEL = tiny_model("qwen3")
LAYOUTS = {1: [Layout()], 2: [Layout(), Layout(tp=2, sp=True), Layout(pp=2), Layout(cp=2)]}


def nan_on_demand(x, config):
    """A loss of the user's own that turns NaN at some step."""
    poison = float("nan") if os.environ.get("ETR_TEST_POISON") else 0.0
    return -(x.ratio + poison) * x.advantages


def held(actor) -> list[torch.Tensor]:
    """Copies of this rank's weights, masters and moments."""
    tensors = [parameter for chunk in actor.chunks for parameter in chunk.parameters()]
    for inner in actor.optimizer.chained_optimizers:
        tensors += inner.get_parameters()
        tensors += [value for state in inner.optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in tensors]


def same(one, other) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def check(layout: Layout, distributed: bool) -> None:
    where = f"{layout} distributed={distributed}"
    parallel.initialize(layout, seed=0)
    rl = Rl(optimizer=Optimizer(lr=1e-3, warmup_steps=0, distributed=distributed))
    actor = Actor(MODEL, layout, rl, 1.0)
    objective = Objective.of(Algo(import_path=f"{__file__}:nan_on_demand"), rl, Rollout(max_new_tokens=24))
    good = random_experience(MODEL.vocab_size)
    everything = torch.arange(len(good.signal))
    _, optim = actor.update(good, everything, objective)
    assert optim["optim/skipped"] == 0
    before = held(actor)

    # The last rank alone is poisoned: with two data-parallel ranks, half of the responses are.
    os.environ["ETR_TEST_POISON"] = "1" if dist.get_rank() == dist.get_world_size() - 1 else ""
    for count in (1, 2):
        _, optim = actor.update(good, everything, objective)
        assert optim["optim/skipped"] == 1, where
        assert math.isnan(optim["optim/grad_norm"])
        assert actor.skipped_in_a_row == count
        assert same(before, held(actor)), f"{where}: a skipped step changed something"
        actor.check_skipped(7)
    os.environ["ETR_TEST_POISON"] = ""
    _, optim = actor.update(good, everything, objective)
    assert optim["optim/skipped"] == actor.skipped_in_a_row == 0
    assert not same(before, held(actor)), f"{where}: the step after a skipped one changed nothing"

    # A weight of the last rank alone is lost: every rank stops, and says which weight on which rank.
    rank = dist.get_world_size() - 1
    name, weight = list(actor.chunks[0].named_parameters())[-1]
    if dist.get_rank() == rank:
        weight.data.view(-1)[0] = float("nan")
    for _ in range(3):
        actor.update(good, everything, objective)
    try:
        actor.check_skipped(8)
    except DivergenceError as error:
        said = str(error)
    else:
        raise AssertionError(f"{where}: three skipped steps in a row, and no error")
    box = [name]
    dist.broadcast_object_list(box, src=rank)
    for part in ("Step 8", "3 optimizer steps", box[0].removeprefix("module."), f"on rank {rank}"):
        assert part in said, f"{where}: {part!r} is not in {said!r}"


def main() -> None:
    torch.set_num_threads(1)
    parallel.initialize(Layout(), seed=0)
    for layout in LAYOUTS[int(sys.argv[1])]:
        for distributed in (True, False):
            check(layout, distributed)
    parallel.finish()


if __name__ == "__main__":
    main()
