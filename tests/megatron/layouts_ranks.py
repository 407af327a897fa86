"""Run by test_layouts.py on real ranks: log-probs, one optimizer step and its metrics, against transformers and torch."""

import sys

from experiences import random_experience
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.actor import Actor
from megatron_patches.policy_loss import PolicyLoss, reduce_metrics
from megatron_patches.weights import export_tensors, load_hf
from pipeline.objectives import PolicyLossInputs, policy_loss
from pipeline.settings import Algo, Layout, Optimizer, Rl, Rollout, Settings

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

LEARNING_RATE = 1e-3
ETR = Algo(loss="etr", kl_coef=0.05, entropy_coef=0.01, dual_clip=3.0)
GSPO = Algo(loss="gspo", aggregate="seq-mean-token-mean", gspo_eps_low=0.1, gspo_eps_high=0.1)


def reference(model, experience, algo: Algo):
    """Log-probs, the model after one AdamW step, the gradient norm and the metrics: one process, row by row, transformers."""
    hf = hf_model(model)
    before, current, entropies = [], [], []
    for prompt, response in zip(experience.prompts, experience.responses, strict=True):
        logits = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logs = logits.log_softmax(-1)
        current.append(logs[range(len(response)), response])
        entropies.append(-(logs.exp() * logs).sum(-1))
    logp = torch.cat(current)
    before = logp.detach()
    of = torch.arange(len(experience)).repeat_interleave(experience.lengths)
    loss, metrics = policy_loss(
        PolicyLossInputs(
            logp=logp, old_logp=experience.old_logp, rollout_logp=experience.rollout_logp, ref_logp=experience.ref_logp,
            entropy=torch.cat(entropies), mask=torch.ones_like(logp), advantages=experience.advantages[of],
            eps_low=experience.eps_low[of], eps_high=experience.eps_high[of], pass_rate=experience.pass_rate[of],
            sequence=of,
        ),
        algo,
    )  # fmt: skip
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
    # Megatron decays matrices only, not norms and biases.
    parts = [[p for p in hf.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (0.01, 0.0), strict=True)]
    torch.optim.AdamW(groups, lr=LEARNING_RATE).step()
    return before, hf_tensors(hf), float(norm), metrics.finalize()


def settings_of(model, layout: Layout, rows: str, distributed: bool, head: str, algo: Algo) -> Settings:
    optimizer = Optimizer(lr=LEARNING_RATE, warmup_steps=0, weight_decay=0.01, distributed=distributed)
    return Settings(
        stage="rl", model_name="t", algo_name="t", data_name="t", cluster_name="t", name="t", model=model, layout=layout,
        algo=algo, rl=Rl(rows=rows, optimizer=optimizer, token_head=head), rollout=Rollout(max_new_tokens=24),
    )  # fmt: skip


def check(model, layout: Layout, rows: str, distributed: bool, head: str, algo: Algo, experience, expected) -> None:
    where = f"{model.family} {algo.loss} {layout} {rows} distributed={distributed} head={head}"
    logp, tensors, norm, metrics = expected
    parallel.initialize(layout, seed=0)
    settings = settings_of(model, layout, rows, distributed, head, algo)
    actor = Actor(settings)
    load_hf(actor.chunks, model, hf_tensors(hf_model(model)).__getitem__)
    actor.weights_changed()
    found = actor.logprobs(experience)
    assert (found - logp).abs().max() < 1e-5, f"{where}: log-probs differ by {(found - logp).abs().max():.1e}"
    minibatch, optim = actor.update(experience, torch.arange(len(experience)), PolicyLoss(settings))
    assert abs(optim["optim/grad_norm"] - norm) < 1e-5 * norm, f"{where}: norm {optim['optim/grad_norm']} not {norm}"
    named = reduce_metrics([minibatch])
    for name, value in metrics.items():
        if isinstance(value, float) and "entropy" not in name:
            assert abs(named[name] - value) <= 1e-4 * abs(value) + 1e-6, (
                f"{where}: {name} is {named[name]}, not {value}"
            )
    for name, tensor in export_tensors(actor.chunks, model):
        error = (tensor - tensors[name]).norm() / tensors[name].norm()
        assert error < 1e-5, f"{where}: {name} is off by {error:.1e} after one step"
    if dist.get_rank() == 0:
        print("ok", where, flush=True)


def main() -> None:
    world = int(sys.argv[1])
    torch.set_num_threads(1)
    parallel.initialize(Layout(), seed=0)
    dense, sparse = tiny_model("qwen3", num_layers=4), tiny_model("qwen3_moe")
    experience = random_experience(dense.vocab_size)
    experience.ref_logp = experience.old_logp - 0.1
    etr, gspo = reference(dense, experience, ETR), reference(dense, experience, GSPO)

    def budget(tokens: int, **parts) -> Layout:
        return Layout(micro_batch_tokens=tokens, **parts)

    if world == 1:
        cases = [
            (budget(n), rows, True, head)
            for n in (36, 150, 4096)
            for rows in ("padded", "packed")
            for head in ("auto",)
        ]
        cases += [(budget(100), "packed", False, "recompute")]
    elif world == 2:
        cases = [
            (budget(100), "packed", True, "auto"),  # data parallel, distributed optimizer
            (budget(100), "padded", False, "auto"),  # data parallel, every rank its own whole optimizer
            (budget(4096, tp=2), "padded", True, "auto"),
            (budget(100, tp=2, sp=True), "packed", True, "auto"),
            (budget(100, tp=2, sp=True), "padded", True, "recompute"),
            (budget(100, pp=2), "padded", True, "auto"),
            (budget(64, pp=2, vpp=2), "packed", False, "auto"),
            (budget(100, cp=2), "packed", True, "auto"),
            (budget(100, cp=2), "padded", True, "recompute"),
        ]
    else:
        cases = [
            (budget(100, tp=2, cp=2, sp=True), "packed", True, "auto"),
            (budget(100, tp=2, pp=2, sp=True), "padded", True, "auto"),
            (budget(64, pp=2, vpp=2), "packed", True, "auto"),  # and two data-parallel ranks
        ]
    for layout, rows, distributed, head in cases:
        check(dense, layout, rows, distributed, head, ETR, experience, etr)
    if world == 2:
        for layout in (budget(100, cp=2), budget(100, tp=2, sp=True)):
            check(dense, layout, "packed", True, "auto", GSPO, experience, gspo)
        routed = reference(sparse, experience, ETR)
        for layout in (budget(100, tp=2, sp=True), budget(100, ep=2)):
            check(sparse, layout, "padded", True, "auto", ETR, experience, routed)
    parallel.finish()


if __name__ == "__main__":
    main()
