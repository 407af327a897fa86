"""Called by layouts_ranks.py: weights and Adam's memory, saved at one layout, go on at another as if it had not changed."""

from pathlib import Path

from experiences import random_experience
from tiny_models import hf_model, hf_tensors

from megatron_patches import parallel
from megatron_patches.model import checkpoint
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.settings import Algo, Layout, Model, Optimizer, Rl, Rollout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

BEFORE, AFTER = 2, 5
"""Optimizer steps before the save and after it."""
LIMIT = 1e-5
"""Largest relative distance of a tensor, by norms."""
RING = [
    (True, Layout()),
    (True, Layout(tp=2, sp=True)),
    (True, Layout(pp=2, vpp=2)),
    (False, Layout()),
    (False, Layout(pp=2)),
]
"""Layouts of two ranks. Each is continued at the next, and the last at the first. True: Adam is cut over the data-parallel
ranks, and gathered in host memory for a save; between True and False its state is converted."""


def rl_of(distributed: bool) -> Rl:
    return Rl(optimizer=Optimizer(lr=1e-3, warmup_steps=3, weight_decay=0.01, distributed=distributed))


def actor_of(model: Model, layout: Layout, distributed: bool) -> Actor:
    parallel.initialize(layout, seed=0)
    return Actor(model, layout, rl_of(distributed), 1.0)


def learn(actor: Actor, model: Model, steps: range) -> None:
    objective = Objective.of(Algo(loss="etr"), rl_of(True), Rollout(max_new_tokens=24))
    for step in steps:
        experience = random_experience(model.vocab_size, prompts=2, group=2, longest=12, seed=step)
        actor.update(experience, torch.arange(len(experience)), objective)


def exported(actor: Actor, model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in export_tensors(actor.chunks, model)}


def check_resharding(model: Model, folder: Path) -> None:
    undisturbed: list[dict[str, torch.Tensor]] = []
    for number, (distributed, layout) in enumerate(RING):
        actor = actor_of(model, layout, distributed)
        load_hf(actor.chunks, model, hf_tensors(hf_model(model)).__getitem__)
        actor.weights_changed()
        learn(actor, model, range(BEFORE))
        common = actor.scheduler.state_dict()
        checkpoint.save(folder, number, actor.chunks, model, optimizer=actor.optimizer, common=common)
        learn(actor, model, range(BEFORE, BEFORE + AFTER))
        undisturbed.append(exported(actor, model))
    for number, expected in enumerate(undisturbed):
        distributed, layout = RING[(number + 1) % len(RING)]
        actor = actor_of(model, layout, distributed)
        common = checkpoint.load(folder, number, actor.chunks, model, optimizer=actor.optimizer)
        actor.scheduler.load_state_dict(common)
        learn(actor, model, range(BEFORE, BEFORE + AFTER))
        found = exported(actor, model)
        worst = max(float((found[name] - tensor).norm() / tensor.norm()) for name, tensor in expected.items())
        where = f"{RING[number]} continued at {(distributed, layout)}"
        assert worst < LIMIT, f"{where}: off by {worst:.1e}"
        if dist.get_rank() == 0:
            print(f"ok {where}: {worst:.1e}", flush=True)
