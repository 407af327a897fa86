"""Run by test_two_hosts.py: a checkpoint of one layout goes on at another, on other hosts.

argv: the folder, and `make` (two ranks on one host, TP 2: two steps, a checkpoint, five more steps) or `tp`, `pp` or `dp`: the
layout of two ranks at which the five steps are made again.
"""

import sys
from pathlib import Path

from resharding import AFTER, BEFORE, LIMIT, actor_of, exported, learn
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model import checkpoint
from megatron_patches.model.weights import load_hf
from pipeline.settings import Layout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

LAYOUTS = {"tp": Layout(tp=2, sp=True), "pp": Layout(pp=2), "dp": Layout()}


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    model = tiny_model("qwen3", num_layers=4)
    actor = actor_of(model, Layout(tp=2, sp=True) if what == "make" else LAYOUTS[what], distributed=True)
    if what == "make":
        load_hf(actor.chunks, model, hf_tensors(hf_model(model)).__getitem__)
        actor.weights_changed()
        learn(actor, model, range(BEFORE))
        common = actor.scheduler.state_dict()
        checkpoint.save(folder, BEFORE, actor.chunks, model, optimizer=actor.optimizer, common=common)
    else:
        common = checkpoint.load(folder, BEFORE, actor.chunks, model, optimizer=actor.optimizer)
        actor.scheduler.load_state_dict(common)
    learn(actor, model, range(BEFORE, BEFORE + AFTER))
    found = exported(actor, model)
    if what == "make":
        if dist.get_rank() == 0:
            torch.save(found, folder / "undisturbed.pt")
    else:
        expected = torch.load(folder / "undisturbed.pt", weights_only=True)
        worst = max(float((found[name] - tensor).norm() / tensor.norm()) for name, tensor in expected.items())
        assert worst < LIMIT, f"TP 2 continued at {what} over two hosts: off by {worst:.1e}"
        print(f"ok {what} {worst:.1e}", flush=True)
    parallel.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
