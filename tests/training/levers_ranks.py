"""Run by test_levers.py on real ranks: three updates with each lever of memory and time, and without."""

import sys
from itertools import pairwise
from pathlib import Path

import te_modules
from experiences import random_experience
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model import checkpoint
from megatron_patches.model.checkpoint_saving import start_moments
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.parking import storages_of
from megatron_patches.training.policy_loss import Objective
from pipeline.settings import Algo, Layout, Model, Optimizer, Rl, Rollout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

STEPS = 3
ALGO = Algo(loss="etr", entropy_coef=0.01)
WITHOUT = Rl(optimizer=Optimizer(lr=1e-3, warmup_steps=0, weight_decay=0.01))
HOST = WITHOUT.optimizer.model_copy(update={"cpu_offload": True})
FUSED = {"fused_grad_accumulation": True}
GROUPED = {"grouped_experts": True}
OVERLAP = {"overlap_grad_reduce": True, "overlap_param_gather": True}


def trained(model: Model, rl: Rl, steps: range, layout: Layout | None = None) -> Actor:
    """An actor with the weights of `hf_model`, after these steps."""
    parallel.initialize(layout or Layout(), seed=0)
    actor = Actor(model, layout or Layout(), rl, temperature=1.0)
    load_hf(actor.chunks, model, hf_tensors(hf_model(model.model_copy(update={"dtype": "fp32"}))).__getitem__)
    actor.weights_changed()
    learn(actor, steps)
    return actor


def learn(actor: Actor, steps: range) -> float:
    """Updates, each after a generation; returns the norm of the last gradient."""
    norm = 0.0
    for step in steps:
        experience = random_experience(actor.model.vocab_size, seed=step)
        actor.park()  # the engine generates
        actor.fetch()
        objective = Objective.of(ALGO, actor.rl, Rollout(max_new_tokens=24))
        _, optim = actor.update(experience, torch.arange(len(experience)), objective, followed=step + 1 < steps.stop)
        norm = optim["optim/grad_norm"]
    return norm


def updated(model: Model, layout: Layout, rl: Rl) -> tuple[dict[str, torch.Tensor], float]:
    """The tensors after three updates, and the norm of the last gradient."""
    actor = trained(model, rl, range(0), layout)
    norm = learn(actor, range(STEPS))
    return {name: tensor.clone() for name, tensor in export_tensors(actor.chunks, model)}, norm


def check(model: Model, layout: Layout, levers: list[dict], close: float = 0.0) -> None:
    """`close`: largest relative error of a tensor, where sums are taken in another order."""
    expected, norm = updated(model, layout, WITHOUT)
    for changes in levers:
        rl = WITHOUT.model_copy(update=changes)
        found, its_norm = updated(model, layout, rl)
        where = f"{model.family} {model.dtype} {layout} {changes}"
        assert abs(its_norm - norm) <= max(close, 1e-6) * norm, f"{where}: gradient norm {its_norm}, not {norm}"
        for name, tensor in expected.items():
            error = float((found[name].float() - tensor.float()).norm() / tensor.float().norm())
            assert error <= close, f"{where}: {name} is off by {error:.1e}"
        if dist.get_rank() == 0:
            print("ok", where, flush=True)


def check_parking(model: Model) -> None:
    """Parked parts take no memory, the others stay, and together they are all that the plan counts."""
    actor = Actor(model, Layout(), WITHOUT.model_copy(update={"offload": ["gradients", "optimizer"]}), temperature=1.0)
    start_moments(actor.optimizer)
    parts = {part: storages_of(actor, part) for part in ("weights", "gradients", "optimizer")}

    def held() -> dict[str, int]:
        return {part: sum(storage.nbytes() for storage in storages) for part, storages in parts.items()}

    before = held()
    weights = sum(p.numel() * p.element_size() for p in actor.chunks[0].parameters())
    for part, times in {
        "weights": 1,
        "gradients": 2,
        "optimizer": 6,
    }.items():  # bf16; fp32 gradients, masters and two moments
        assert abs(before[part] - times * weights) < 0.01 * times * weights, (part, before[part], weights)
    actor.park()
    actor.park()
    assert held() == {"weights": before["weights"], "gradients": 0, "optimizer": 0}
    actor.fetch()
    assert held() == before


def check_saved(model: Model, folder: Path) -> None:
    """A checkpoint of moments on the host goes on with moments on the device, and the other way."""
    expected, _ = updated(model, Layout(), WITHOUT)
    for number, (saves, loads) in enumerate(((HOST, WITHOUT.optimizer), (WITHOUT.optimizer, HOST))):
        before = trained(model, WITHOUT.model_copy(update={"optimizer": saves}), range(STEPS - 1))
        checkpoint.save(
            folder, number, before.chunks, model, optimizer=before.optimizer, common=before.scheduler.state_dict()
        )
        after = Actor(model, Layout(), WITHOUT.model_copy(update={"optimizer": loads}), temperature=1.0)
        after.scheduler.load_state_dict(checkpoint.load(folder, number, after.chunks, model, optimizer=after.optimizer))
        learn(after, range(STEPS - 1, STEPS))
        for name, tensor in export_tensors(after.chunks, model):
            assert torch.equal(tensor, expected[name]), f"{name} after a checkpoint, saved with {saves}"


def check_saved_experts(model: Model, layout: Layout, folder: Path) -> None:
    """A checkpoint with optimizer state goes on between experts one by one, together, and Transformer Engine's for all (modules
    with its names). To be called last: `model.backend=auto` means those afterwards."""
    te_modules.install()
    model = model.model_copy(update={"backend": "local"})
    grouped = WITHOUT.model_copy(update=GROUPED)
    te = model.model_copy(update={"backend": "te"})
    forms = [(model, WITHOUT), (te, grouped), (model, grouped), (model, WITHOUT)]
    expected = {
        name: tensor.clone() for name, tensor in export_tensors(trained(*forms[0], range(STEPS), layout).chunks, model)
    }
    for number, ((its, saves), (other, loads)) in enumerate(pairwise(forms)):
        before = trained(its, saves, range(STEPS - 1), layout)
        checkpoint.save(
            folder, number, before.chunks, its, optimizer=before.optimizer, common=before.scheduler.state_dict()
        )
        after = Actor(other, layout, loads, temperature=1.0)
        after.scheduler.load_state_dict(checkpoint.load(folder, number, after.chunks, other, optimizer=after.optimizer))
        assert any("fc1.weight0" in name for name, _ in after.chunks[0].named_parameters()) == (other is te)
        learn(after, range(STEPS - 1, STEPS))
        for name, tensor in export_tensors(after.chunks, other):
            error = float((tensor - expected[name]).norm() / expected[name].norm())
            assert error < 1e-5, f"{name} is off by {error:.1e} after checkpoint {number}"


def check_gather_is_deferred(model: Model) -> None:
    """An update that is followed by another leaves the other ranks' new weights for its forward pass."""
    rl = WITHOUT.model_copy(update=OVERLAP)
    actor = trained(model, rl, range(1))
    experience = random_experience(model.vocab_size, seed=1)
    actor.update(experience, torch.arange(len(experience)), Objective.of(ALGO, rl, Rollout()), followed=True)
    here = [p.detach().clone() for p in actor.chunks[0].parameters()]
    for chunk in actor.chunks:
        chunk.start_param_sync(force_sync=True)
    changed = [not torch.equal(a, b) for a, b in zip(here, actor.chunks[0].parameters(), strict=True)]
    assert any(changed)
    assert not all(changed)


def check_gradients_are_not_rounded(model: Model) -> None:
    """In bf16 a linear layer's gradient over one micro-batch is a bf16 number, unless its product adds it to the buffer."""
    model = model.model_copy(update={"dtype": "bf16"})
    for changes, is_rounded in (({}, True), (FUSED, False)):
        actor = trained(model, WITHOUT.model_copy(update=changes), range(1), Layout(micro_batch_tokens=4096))
        grads = [p.main_grad for n, p in actor.chunks[0].named_parameters() if "linear_" in n and n.endswith(".weight")]
        assert len(grads) == 4 * model.num_layers
        for grad in grads:
            assert float(grad.norm()) > 0
            assert torch.equal(grad, grad.bfloat16().float()) == is_rounded, f"{changes}"


def check_grouped_in_bf16(model: Model) -> None:
    """One step from the same bf16 weights: most tensors are within a rounding of those of experts one by one."""
    model = model.model_copy(update={"dtype": "bf16"})
    one, other = (trained(model, WITHOUT.model_copy(update=changes), range(1)) for changes in ({}, GROUPED))
    expected, found = (dict(export_tensors(actor.chunks, model)) for actor in (one, other))
    for name, tensor in expected.items():
        error = float((found[name].float() - tensor.float()).norm() / tensor.float().norm())
        assert error < 0.01, f"grouped in bf16: {name} is off by {error:.1e}"


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
        check(dense, small, [*FULL[1:], SELECTIVE[0], *AWAY])
        check(dense.model_copy(update={"dtype": "bf16"}), small, [SELECTIVE[1], AWAY[0], AWAY[2]])
        check(routed, small, [FULL[0], SELECTIVE[0]])
        check(untied, small, [{"fused_swiglu": True}], close=1e-5)
        check(dense, small, [FUSED | {"recompute": "full"}], close=1e-5)
        check_gradients_are_not_rounded(dense)
        check(routed, small, [GROUPED | FUSED | {"fused_swiglu": True}, GROUPED | {"recompute": "full"}], close=1e-5)
        check_grouped_in_bf16(routed)
        check_parking(dense.model_copy(update={"dtype": "bf16"}))
        check_saved(dense, Path(sys.argv[2]) / "moments")
        check_saved_experts(routed, small, Path(sys.argv[2]) / "experts")
        return parallel.finish()
    check_gather_is_deferred(dense)
    check(dense, small, [OVERLAP, {"overlap_grad_reduce": True}, AWAY[0], AWAY[2]], close=1e-5)
    check(untied, small, [OVERLAP | {"recompute": "full"}], close=1e-5)
    check(routed, small.model_copy(update={"ep": 2}), [OVERLAP, GROUPED], close=1e-5)
    check(untied, small.model_copy(update={"tp": 2, "sp": True}), [FUSED | OVERLAP], close=1e-5)
    check(routed, small.model_copy(update={"tp": 2, "sp": True}), [GROUPED | {"recompute": "selective"}], close=1e-5)
    check(dense, small.model_copy(update={"cp": 2}), [OVERLAP | AWAY[0]], close=1e-5)
    check(dense, small.model_copy(update={"tp": 2, "sp": True}), [FULL[0], SELECTIVE[1]])
    check(dense, small.model_copy(update={"pp": 2, "vpp": 2}), [FULL[0], {"overlap_grad_reduce": True}], close=1e-5)
    check_saved_experts(routed, small.model_copy(update={"ep": 2}), Path(sys.argv[2]) / "experts")
    parallel.finish()


if __name__ == "__main__":
    main()
