"""Run by test_routing_replay.py on real ranks: an update with given experts, against transformers made to use them."""

import sys
from dataclasses import replace

import te_modules
from experiences import random_experience
from layouts_ranks import ETR, LEARNING_RATE, budget, reference
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.engines.native import NativeEngine
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.rl.experience import Samples
from pipeline.rollout.interface import Prompt, Sampling
from pipeline.settings import Layout, Model, Optimizer, Rl, Rollout

import torch  # isort: skip
import torch.distributed as dist  # isort: skip
from megatron.core.utils import unwrap_model  # isort: skip

MODEL = tiny_model("qwen3_moe", num_layers=4)


def given_experts(samples: Samples, model: Model) -> torch.Tensor:
    """Random experts for every position and layer; one position in ten is the router's."""
    g = torch.Generator().manual_seed(5)
    shape = (int(samples.position_offsets[-1]), model.num_layers, model.experts.count)
    experts = torch.rand(shape, generator=g).topk(model.experts.per_token).indices + 1
    free = torch.rand(shape[:2], generator=g) < 0.1
    return experts.masked_fill(free[..., None], 0).to(torch.uint8)


def force(experience: Samples):
    """For `reference`: the routers of transformers obey the experts of row i."""

    def prepare(hf, i: int) -> None:
        rows = slice(int(experience.position_offsets[i]), int(experience.position_offsets[i + 1]))
        for number, layer in enumerate(hf.model.layers):
            gate, wanted = layer.mlp.gate, experience.experts[rows, number].long() - 1

            def forward(hidden, gate=gate, wanted=wanted):
                logits, scores, chosen = type(gate).forward(gate, hidden)
                # The row's last token predicts nothing, and no choice was given for it.
                chosen = torch.cat([torch.where(wanted >= 0, wanted, chosen[:-1]), chosen[-1:]])
                scores = logits.softmax(-1).gather(1, chosen)
                return logits, scores / scores.sum(-1, keepdim=True), chosen

            gate.forward = forward

    return prepare


def actor_of(layout: Layout, rows: str, **rl) -> Actor:
    parallel.initialize(layout, seed=0)
    optimizer = Optimizer(lr=LEARNING_RATE, warmup_steps=0, weight_decay=0.01)
    actor = Actor(MODEL, layout, Rl(routing_replay="actor", rows=rows, optimizer=optimizer, **rl), temperature=1.0)
    load_hf(actor.chunks, MODEL, hf_tensors(hf_model(MODEL)).__getitem__)
    actor.weights_changed()
    return actor


def layers_here(actor: Actor) -> list[int]:
    return [layer.layer_number - 1 for chunk in unwrap_model(actor.chunks) for layer in chunk.decoder.layers]


def check(layout: Layout, rows: str, experience, expected, **rl) -> None:
    """Log-probs and a step with the given experts are those of transformers with them; what is recorded is what was given."""
    where = f"{layout} {rows} {rl}"
    logp, tensors, norm, _ = expected
    actor = actor_of(layout, rows, **rl)
    whole, mine = experience.experts, layers_here(actor)
    experience = replace(experience, experts=whole[:, mine])
    found, _, recorded = actor.record(experience)
    assert (found - logp).abs().max() < 1e-5, f"{where}: log-probs differ by {(found - logp).abs().max():.1e}"
    given = experience.experts > 0
    assert torch.equal(recorded.experts[given], experience.experts[given]), f"{where}: other experts were visited"
    assert bool((recorded.experts > 0).all()), f"{where}: a position was not recorded"
    objective = Objective.of(ETR, actor.rl, Rollout(max_new_tokens=24))
    _, optim = actor.update(experience, torch.arange(len(experience)), objective)
    assert abs(optim["optim/grad_norm"] - norm) < 1e-5 * norm, f"{where}: norm {optim['optim/grad_norm']} not {norm}"
    for name, tensor in export_tensors(actor.chunks, MODEL):
        error = (tensor - tensors[name]).norm() / tensors[name].norm()
        assert error < 1e-4, f"{where}: {name} is off by {error:.1e} after one step"
    assert all(not memory.again and memory.given is None for memory in actor.routing._all()), "a choice is left over"
    if dist.get_rank() == 0:
        print("ok", where, flush=True)


def check_recorded_is_replayed() -> None:
    """With other router weights, the recorded experts give the log-probs that those experts have, and routers still learn."""
    actor = actor_of(budget(100), "packed")
    experience = random_experience(MODEL.vocab_size)
    experience = replace(experience, ref_logp=experience.old_logp)
    before, _, recorded = actor.record(experience)
    again, _, twice = actor.record(recorded)
    assert torch.equal(before, again), "replaying the router's own choices changes log-probs"
    assert torch.equal(recorded.experts, twice.experts)
    routers = [layer.mlp.router.weight for layer in unwrap_model(actor.chunks)[0].decoder.layers]
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in routers:
            weight += torch.randn_like(weight) * 0.5
    _, _, own = actor.record(experience)
    assert (own.experts.sort(-1).values != recorded.experts.sort(-1).values).any(-1).float().mean() > 0.1
    _, _, kept = actor.record(recorded)
    assert torch.equal(kept.experts, recorded.experts), "the perturbed routers chose"
    hf = hf_model(MODEL)
    with torch.no_grad():
        for weight, layer in zip(routers, hf.model.layers, strict=True):
            layer.mlp.gate.weight.copy_(weight)
        prepare = force(recorded)
        for i, (prompt, response) in enumerate(zip(recorded.prompts, recorded.responses, strict=True)):
            prepare(hf, i)
            logs = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            expected = logs.gather(1, torch.tensor(response)[:, None])[:, 0]
            found = actor.logprobs(recorded.select(torch.tensor([i])))
            assert (found - expected).abs().max() < 1e-5
    old = [weight.detach().clone() for weight in routers]
    objective = Objective.of(ETR, actor.rl, Rollout(max_new_tokens=24))
    actor.update(replace(experience, experts=recorded.experts), torch.arange(len(experience)), objective)
    assert all(not torch.equal(a, b) for a, b in zip(old, routers, strict=True)), "a router does not learn"


def check_engine(layout: Layout, **rl) -> None:
    """The native engine's experts are those that the actor's routers choose for the same tokens."""
    actor = actor_of(layout, "packed", **rl)
    engine = NativeEngine(actor.chunks, MODEL, Rollout(max_concurrent=5), routing=actor.routing)
    g = torch.Generator().manual_seed(1)
    prompts = [
        Prompt(id=str(n), token_ids=torch.randint(1, 101, (n,), generator=g).tolist(), gold="") for n in (1, 2, 9, 5)
    ]
    sampling = Sampling(max_new_tokens=12, stop_token_ids=(7, 8, 9, 10, 11, 12), seed=4)
    samples = Samples.collect(engine.generate(prompts, 3, sampling))
    assert len({len(response) for response in samples.responses}) > 3, "responses of one length prove nothing"
    _, _, own = actor.record(replace(samples, experts=None))
    recorded = samples.experts
    # The last layer's experts are not recorded where no token was sampled: inside a prompt.
    inside = torch.cat(
        [
            torch.arange(len(p) + len(r) - 1) < len(p) - 1
            for p, r in zip(samples.prompts, samples.responses, strict=True)
        ]
    )
    assert not recorded[inside, -1].any()
    recorded[inside, -1] = own.experts[inside, -1]
    assert torch.equal(recorded.sort(-1).values, own.experts.sort(-1).values), "the engine recorded other experts"
    if dist.get_rank() == 0:
        print("ok engine", layout, flush=True)


BLOCK = {"recompute": "full", "recompute_method": "block", "recompute_layers": 1}
ONE = [
    (budget(1), "padded", {}),
    (budget(100), "packed", {}),
    (budget(100), "padded", {"recompute": "full"}),
    (budget(70), "packed", {"recompute": "full", "recompute_layers": 2}),
    (budget(70), "packed", BLOCK),
    (budget(70), "packed", {"recompute": "selective"}),
]
TWO = [
    (budget(100), "packed", {}),
    (budget(100, tp=2, sp=True), "padded", {}),
    (budget(100, tp=2, sp=True), "packed", {"recompute": "full"}),
    (budget(100, ep=2), "packed", {"recompute": "selective"}),
    (budget(70, pp=2), "packed", {"recompute": "full"}),
    (budget(64, pp=2, vpp=2), "packed", BLOCK),
    (budget(100, cp=2), "packed", {"recompute": "full"}),
    (budget(100, cp=2), "padded", {}),
]
FOUR = [
    (budget(100, tp=2, cp=2, sp=True), "packed", {"recompute": "full"}),
    (budget(100, tp=2, pp=2, sp=True), "padded", {"recompute": "selective"}),
    (budget(100, pp=2, ep=2), "packed", {"recompute": "full"}),
    (budget(64, pp=2, vpp=2), "packed", {"recompute": "full"}),
]


def main() -> None:
    world = int(sys.argv[1])
    torch.set_num_threads(1)
    parallel.initialize(Layout(), seed=0)
    experience = random_experience(MODEL.vocab_size)
    experience = replace(experience, ref_logp=experience.old_logp - 0.1)
    experience = replace(experience, experts=given_experts(experience, MODEL))
    expected = reference(MODEL, experience, ETR, force(experience))
    for layout, rows, rl in {1: ONE, 2: TWO, 4: FOUR}[world]:
        check(layout, rows, experience, expected, **rl)
    if world == 1:
        check_recorded_is_replayed()
        check_engine(budget(4096))
        te_modules.install()
        check_engine(budget(4096), grouped_experts=True)
    if world == 2:
        for layout in (budget(4096), budget(4096, tp=2, sp=True), budget(4096, ep=2)):
            check_engine(layout)
    parallel.finish()


if __name__ == "__main__":
    main()
