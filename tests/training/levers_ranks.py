"""Run by test_levers.py on real ranks: three updates with each lever of memory and time, and without."""

import sys
from dataclasses import replace

from experiences import random_experience
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.settings import Algo, Layout, Model, Optimizer, Rl, Rollout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

STEPS = 3
ALGO = Algo(loss="etr", entropy_coef=0.01)
WITHOUT = Rl(optimizer=Optimizer(lr=1e-3, warmup_steps=0, weight_decay=0.01))
HOST = WITHOUT.optimizer.model_copy(update={"cpu_offload": True})
OVERLAP = {"overlap_grad_reduce": True, "overlap_param_gather": True}


def updated(model: Model, layout: Layout, rl: Rl) -> tuple[dict[str, torch.Tensor], float]:
    """The tensors after three updates, and the norm of the last gradient."""
    parallel.initialize(layout, seed=0)
    actor = Actor(model, layout, rl, temperature=1.0)
    load_hf(actor.chunks, model, hf_tensors(hf_model(model.model_copy(update={"dtype": "fp32"}))).__getitem__)
    actor.weights_changed()
    objective = Objective.of(ALGO, rl, Rollout(max_new_tokens=24))
    norm = 0.0
    for step in range(STEPS):
        experience = random_experience(model.vocab_size, seed=step)
        experience = replace(experience, ref_logp=None)
        actor.park()  # the engine generates
        actor.fetch()
        _, optim = actor.update(experience, torch.arange(len(experience)), objective, followed=step < STEPS - 1)
        norm = optim["optim/grad_norm"]
    return {name: tensor.clone() for name, tensor in export_tensors(actor.chunks, model)}, norm


def check(model: Model, layout: Layout, levers: list[dict], close: float = 0.0) -> None:
    """`close`: largest relative error of a tensor, where sums are taken in another order."""
    expected, norm = updated(model, layout, WITHOUT)
    for changes in levers:
        rl = Rl.model_validate(WITHOUT.model_dump() | {k: getattr(v, "model_dump", lambda v=v: v)() for k, v in changes.items()})
        found, its_norm = updated(model, layout, rl)
        where = f"{model.family} {model.dtype} {layout} {changes}"
        assert abs(its_norm - norm) <= max(close, 1e-6) * norm, f"{where}: gradient norm {its_norm}, not {norm}"
        for name, tensor in expected.items():
            error = float((found[name].float() - tensor.float()).norm() / tensor.float().norm())
            assert error <= close, f"{where}: {name} is off by {error:.1e}"
        if dist.get_rank() == 0:
            print("ok", where, flush=True)


FULL = [
    {"recompute": "full"},
    {"recompute": "full", "recompute_layers": 2},
    {"recompute": "full", "recompute_method": "block", "recompute_layers": 1},
]
SELECTIVE = [{"recompute": "selective", "recompute_modules": parts} for parts in ([], ["core_attn", "mlp"])]
AWAY = [{"offload": ["weights", "gradients", "optimizer"]}, {"offload": ["optimizer"]}, {"optimizer": HOST}]


def main() -> None:
    world = int(sys.argv[1])
    torch.set_num_threads(1)
    parallel.initialize(Layout(), seed=0)
    dense = tiny_model("qwen3", num_layers=4)  # tied
    untied = tiny_model("qwen2", num_layers=4)
    routed = tiny_model("qwen3_moe")
    small = Layout(micro_batch_tokens=70)
    if world == 1:
        check(dense, small, [*FULL, *SELECTIVE, *AWAY])
        check(dense.model_copy(update={"dtype": "bf16"}), small, [FULL[0], SELECTIVE[1], *AWAY])
        check(routed, small, [FULL[0], SELECTIVE[0]])
        check(untied, small, [{"fused_swiglu": True}], close=1e-5)
        check(routed, small, [{"fused_swiglu": True}], close=1e-5)
        return parallel.finish()
    check(dense, small, [OVERLAP, {"overlap_grad_reduce": True}, AWAY[0], AWAY[2]], close=1e-5)
    check(untied, small, [OVERLAP | {"recompute": "full"}], close=1e-5)
    check(routed, small.model_copy(update={"ep": 2}), [OVERLAP], close=1e-5)
    check(dense, small.model_copy(update={"cp": 2}), [OVERLAP | AWAY[0]], close=1e-5)
    check(dense, small.model_copy(update={"tp": 2, "sp": True}), [FULL[0], SELECTIVE[1]])
    check(dense, small.model_copy(update={"pp": 2, "vpp": 2}), [FULL[0], {"overlap_grad_reduce": True}], close=1e-5)
    parallel.finish()


if __name__ == "__main__":
    main()
