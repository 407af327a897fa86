"""Run by test_left_out.py on real ranks: updates with and without the responses whose advantage is 0."""

import sys
from dataclasses import replace

from experiences import random_experience
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective, reduce_metrics
from pipeline.objectives import FAMILY, losses
from pipeline.rl.experience import Experience
from pipeline.settings import Algo, Layout, Optimizer, Rl, Rollout
from pipeline.settings.algo import NEIGHBOURS

import torch  # isort: skip

AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
WHOLE = ("clip/", "policy/loss", "policy/live_tokens", "counterfactual/")
"""Metrics of all response tokens; the others are of the tokens that are trained on."""


def some_without_signal(vocab: int) -> Experience:
    """Four groups of three: the first and third have no advantage, the second has one response of advantage 0."""
    whole = random_experience(vocab, prompts=4, group=3, given_lengths=[5, 9, 3, 7, 0, 12, 4, 4, 8, 11, 6, 10])
    advantages = whole.advantages.clone()
    advantages[[0, 1, 2, 4, 6, 7, 8]] = 0.0
    family = torch.rand(len(FAMILY), 2, 12, generator=torch.Generator().manual_seed(1)) * 0.3
    return replace(whole, advantages=advantages, signal=replace(whole.signal, advantages=advantages, family=family))


def actor_of(model, layout: Layout, algo: Algo) -> tuple[Actor, Objective]:
    optimizer = Optimizer(lr=1e-3, warmup_steps=0, weight_decay=0.01)
    rl, rollout = Rl(rows="packed", optimizer=optimizer), Rollout(max_new_tokens=24)
    actor = Actor(model, layout, rl, 1.0)
    load_hf(actor.chunks, model, hf_tensors(hf_model(model)).__getitem__)
    actor.weights_changed()
    return actor, Objective.of(algo, rl, rollout)


def step(model, layout: Layout, algo: Algo, experience: Experience, chosen: torch.Tensor):
    actor, objective = actor_of(model, layout, algo)
    assert not objective.everything
    minibatch, optim = actor.update(experience, chosen, objective)
    return dict(export_tensors(actor.chunks, model)), optim["optim/grad_norm"], reduce_metrics([minibatch])


def check(model, layout: Layout, algo: Algo, chosen: torch.Tensor) -> dict:
    """Returns the step's metrics."""
    where = f"{algo.loss} {algo.aggregate} {chosen.tolist()}"
    parallel.initialize(layout, seed=0)
    whole = some_without_signal(model.vocab_size)
    if losses.of(algo).matched:  # one pair of bounds for the whole step, as clip_bounds makes them
        same = {name: torch.full((12,), 0.2) for name in ("eps_low", "eps_high")}
        whole = replace(whole, **same, signal=replace(whole.signal, **same))
    part = Experience.of(whole, whole.signal, whole.old_logp, everything=False)
    assert part.index.tolist() == [3, 5, 9, 10, 11]
    tensors, norm, metrics = step(model, layout, algo, whole, chosen)
    found, found_norm, found_metrics = step(model, layout, algo, part, chosen)
    assert abs(found_norm - norm) <= 2e-6 * max(norm, 1e-3), f"{where}: gradient norm {found_norm}, not {norm}"
    for name, tensor in tensors.items():
        assert (found[name] - tensor).norm() <= 2e-6 * tensor.norm(), f"{where}: {name}"
    for name, value in metrics.items():
        if name.startswith(WHOLE):
            assert abs(found_metrics[name] - value) <= 1e-6 * max(abs(value), 1e-3), f"{where}: {name}"
    print("ok", where, flush=True)
    return metrics


def check_first_step(model, layout: Layout, algo: Algo) -> None:
    """Without old log-probs the first optimizer step is the one that has those of the actor."""
    parallel.initialize(layout, seed=0)
    whole = some_without_signal(model.vocab_size)
    old = actor_of(model, layout, algo)[0].logprobs(whole)
    tensors, norm, metrics = step(model, layout, algo, replace(whole, old_logp=old), torch.arange(12))
    found, found_norm, found_metrics = step(model, layout, algo, replace(whole, old_logp=None), torch.arange(12))
    where = f"first step of {algo.loss} {layout}"
    assert abs(found_norm - norm) <= 2e-6 * norm, f"{where}: gradient norm {found_norm}, not {norm}"
    for name, tensor in tensors.items():
        assert (found[name] - tensor).norm() <= 2e-6 * tensor.norm(), f"{where}: {name}"
    for name in ("policy/loss", "gap/mean", "gap/max", "gap/is_weight"):
        assert abs(found_metrics[name] - metrics[name]) <= 1e-5 * max(abs(metrics[name]), 1e-2), f"{where}: {name}"
    assert found_metrics["policy/ratio_max"] == found_metrics["policy/ratio_min"] == 1
    print("ok", where, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    world = int(sys.argv[1])
    model = tiny_model("qwen3")
    layout = Layout(micro_batch_tokens=40)
    everyone, nobody = torch.arange(12), torch.tensor([0, 1, 2, 6, 7, 8])
    for aggregate in AGGREGATES:
        for name in sorted({*losses.names()} - {*NEIGHBOURS}):
            check(model, layout, Algo(loss=name, aggregate=aggregate), everyone)
    for name in ("bapo", "dc_grpo"):  # bounds of a minibatch, and of tokens; the other neighbours are like the above
        check(model, layout, Algo(loss=name), everyone)
    check(model, layout, Algo(), torch.tensor([0, 1, 3, 4]))  # one sequence of the minibatch has an advantage
    check(model, layout, Algo(), nobody)  # the optimizer still makes its step
    for name in ("etr", "gspo", "cispo"):
        check_first_step(model, layout, Algo(loss=name, is_weight="on"))
    if world == 2:
        check_first_step(model, Layout(micro_batch_tokens=40, tp=2), Algo(is_weight="on"))
        bapo = Algo(loss="bapo", eps_low=0.4, eps_high=0.2)
        same = {algo.loss: check(model, layout, algo, everyone) for algo in (Algo(), bapo)}
        assert same["bapo"]["bounds/eps_high_token_mean"] > 0.25  # the search has moved
        for parts in ({"tp": 2}, {"cp": 2}, {"pp": 2}):
            for algo in (Algo(), bapo) if parts == {"cp": 2} else (Algo(),):
                metrics = check(model, Layout(micro_batch_tokens=40, **parts), algo, everyone)
                for name, value in same[algo.loss].items():
                    if name.startswith(("counterfactual/", "clip/", "bounds/")):
                        assert abs(metrics[name] - value) <= 1e-5 * max(abs(value), 1e-3), (
                            f"{algo.loss} {parts}: {name}"
                        )
            check(model, Layout(micro_batch_tokens=40, **parts), Algo(), nobody)
    parallel.finish()


if __name__ == "__main__":
    main()
