"""The learning rate over a run and over the same run extended."""

import pytest
import torch

from megatron_patches.training.optimizer import build_scheduler
from pipeline.settings import Optimizer


def rates(total_steps: int, settings: Optimizer, count: int) -> list[float]:
    """The learning rate of each of the first `count` optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, settings, total_steps)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step(increment=1)
    return found


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_a_run_that_is_extended_had_the_same_warm_up(decay):
    settings = Optimizer(lr=1.0, warmup_steps=9, decay=decay)
    short, whole = rates(4, settings, 4), rates(200, settings, 12)
    assert short == whole[:4]
    assert whole[:10] == pytest.approx([(1 + i) / 10 for i in range(10)])
