"""Run by test_layouts.py on real ranks: log-probs, one optimizer step and its metrics, against transformers and torch."""

import sys
from dataclasses import replace
from pathlib import Path

from experiences import random_experience
from resharding import check_resharding
from tiny_models import hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model.weights import export_tensors, load_hf
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective, reduce_metrics
from pipeline.objectives import PolicyLossInputs, policy_loss
from pipeline.settings import Algo, Layout, Optimizer, Rl, Rollout, Settings

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

LEARNING_RATE = 1e-3
ETR = Algo(loss="etr", kl_coef=0.05, entropy_coef=0.01, dual_clip=3.0)
LLAMA_ROPE = {
    "scaling": "llama3", "factor": 4.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
"""Numbers other than Llama 3.1's, over a length at which some wavelengths are stretched, some blended, some left alone."""
GSPO = Algo(loss="gspo", aggregate="seq-mean-token-mean", gspo_eps_low=0.1, gspo_eps_high=0.1, is_form="sequence_mis")


def reference(model, experience, algo: Algo, prepare=None):
    """Log-probs, the model after one AdamW step, the gradient norm and the metrics: one process, row by row, transformers.
    `prepare(hf, i)` is called before each row."""
    hf = hf_model(model)
    before, current, entropies = [], [], []
    for i, (prompt, response) in enumerate(zip(experience.prompts, experience.responses, strict=True)):
        if prepare is not None:
            prepare(hf, i)
        logits = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logs = logits.log_softmax(-1)
        current.append(logs.gather(1, torch.tensor(response, dtype=torch.int64)[:, None])[:, 0])
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


def check(
    model,
    layout: Layout,
    rows: str,
    distributed: bool,
    head: str,
    algo: Algo,
    experience,
    expected,
    close: float = 1e-5,
) -> None:
    """`close`: largest relative error of a tensor after the step."""
    where = f"{model.family} {algo.loss} {layout} {rows} distributed={distributed} head={head}"
    logp, tensors, norm, metrics = expected
    parallel.initialize(layout, seed=0)
    settings = settings_of(model, layout, rows, distributed, head, algo)
    actor = Actor(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    load_hf(actor.chunks, model, hf_tensors(hf_model(model)).__getitem__)
    actor.weights_changed()
    found = actor.logprobs(experience)
    assert (found - logp).abs().max() < 1e-5, f"{where}: log-probs differ by {(found - logp).abs().max():.1e}"
    objective = Objective.of(settings.algo, settings.rl, settings.rollout)
    minibatch, optim = actor.update(experience, torch.arange(len(experience)), objective)
    assert abs(optim["optim/grad_norm"] - norm) < 1e-5 * norm, f"{where}: norm {optim['optim/grad_norm']} not {norm}"
    named = reduce_metrics([minibatch])
    for name, value in metrics.items():
        if isinstance(value, float) and (name != "policy/entropy" or objective.needs_entropy):
            assert abs(named[name] - value) <= 1e-4 * abs(value) + 1e-6, (
                f"{where}: {name} is {named[name]}, not {value}"
            )
    for name, tensor in export_tensors(actor.chunks, model):
        error = (tensor - tensors[name]).norm() / tensors[name].norm()
        assert error < close, f"{where}: {name} is off by {error:.1e} after one step"
    if dist.get_rank() == 0:
        print("ok", where, flush=True)


def check_bf16(model, experience, expected) -> None:
    """The same step in bf16: near the fp32 one, no more can be asked (8 bits of mantissa through four layers)."""
    parallel.initialize(Layout(), seed=0)
    logp, _, norm, metrics = expected
    settings = settings_of(model.model_copy(update={"dtype": "bf16"}), Layout(), "packed", True, "auto", ETR)
    actor = Actor(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    load_hf(actor.chunks, settings.model, hf_tensors(hf_model(model)).__getitem__)
    actor.weights_changed()
    found = actor.logprobs(experience)
    assert found.dtype == torch.float32
    assert (found - logp).abs().mean() < 0.02, (
        f"bf16 log-probs are off by {(found - logp).abs().mean():.3f} in the mean"
    )
    minibatch, optim = actor.update(
        experience, torch.arange(len(experience)), Objective.of(settings.algo, settings.rl, settings.rollout)
    )
    assert abs(optim["optim/grad_norm"] - norm) < 0.05 * norm, f"bf16: norm {optim['optim/grad_norm']} not near {norm}"
    named = reduce_metrics([minibatch])
    assert named["policy/nonfinite_tokens"] == 0
    for name in ("policy/entropy", "policy/loss"):
        assert abs(named[name] - metrics[name]) < 0.05 * abs(metrics[name]), (
            f"bf16: {name} {named[name]} {metrics[name]}"
        )
    print("ok bf16", flush=True)


def budget(tokens: int, **parts) -> Layout:
    """Sequences have up to 34 positions: 1 means one sequence a micro-batch, 70 two, 140 four (or more short ones)."""
    return Layout(micro_batch_tokens=tokens, **parts)


ONE = [
    *((budget(n), rows, True, "auto") for n in (1, 70, 140) for rows in ("padded", "packed")),
    (budget(4096), "packed", False, "recompute"),
]
TWO = [
    (budget(100), "packed", True, "auto"),  # data parallel, distributed optimizer
    (budget(100), "padded", False, "auto"),  # data parallel, every rank its own whole optimizer
    (budget(4096, tp=2), "padded", True, "auto"),
    (budget(1, tp=2), "packed", False, "auto"),
    (budget(100, tp=2, sp=True), "packed", True, "auto"),
    (budget(100, tp=2, sp=True), "padded", True, "recompute"),
    (budget(100, pp=2), "padded", True, "auto"),
    (budget(70, pp=2), "packed", False, "recompute"),
    (budget(64, pp=2, vpp=2), "packed", False, "auto"),
    (budget(1, pp=2, vpp=2), "padded", True, "auto"),
    (budget(100, cp=2), "packed", True, "auto"),
    (budget(100, cp=2), "padded", False, "recompute"),
]
FOUR = [
    (budget(100, tp=2, cp=2, sp=True), "packed", True, "auto"),
    (budget(100, tp=2, pp=2, sp=True), "padded", True, "auto"),
    (budget(100, tp=2), "packed", True, "auto"),  # and two data-parallel ranks
    (budget(100, pp=2, cp=2), "packed", False, "auto"),
    (budget(100, cp=2), "padded", True, "auto"),  # and two data-parallel ranks
    (budget(64, pp=2, vpp=2), "packed", True, "auto"),  # and two data-parallel ranks
]


def main() -> None:
    world = int(sys.argv[1])
    torch.set_num_threads(1)
    parallel.initialize(Layout(), seed=0)
    dense = tiny_model("qwen3", num_layers=4)  # q/k norms, tied
    experience = random_experience(dense.vocab_size)
    experience = replace(experience, ref_logp=experience.old_logp - 0.1)
    etr = reference(dense, experience, ETR)
    for layout, rows, distributed, head in {1: ONE, 2: TWO, 4: FOUR}[world]:
        check(dense, layout, rows, distributed, head, ETR, experience, etr)

    if world == 1:
        check_bf16(dense, experience, etr)
    if world == 2:
        check_resharding(dense, Path(sys.argv[2]))
        gspo = reference(dense, experience, GSPO)
        for layout in (budget(100, cp=2), budget(100, tp=2, sp=True)):
            check(dense, layout, "packed", True, "auto", GSPO, experience, gspo)
        sparse = tiny_model("qwen3_moe")
        routed = reference(sparse, experience, ETR)
        for layout in (budget(100, tp=2, sp=True), budget(100, ep=2)):
            check(sparse, layout, "padded", True, "auto", ETR, experience, routed)
        cuts = (budget(100, tp=2, sp=True), budget(100, pp=2), budget(100, cp=2))
        # A gradient near Adam's epsilon shows its rounding in the step (3e-5); one wrong sign would be 6e-4.
        for family, tied in (("qwen2", False), ("qwen2", True), ("qwen3", False), ("llama", True), ("qwen3_moe", True)):
            other = tiny_model(family, tie_word_embeddings=tied)
            expected = reference(other, experience, ETR)
            for layout in cuts:
                check(other, layout, "packed", True, "auto", ETR, experience, expected, close=1e-4)
        for layout in cuts[1:]:
            check(sparse, layout, "packed", True, "auto", ETR, experience, routed, close=1e-4)
        llama = tiny_model("llama", rope=LLAMA_ROPE)  # untied
        stretched = reference(llama, experience, ETR)
        for layout in (budget(100, tp=2), budget(100, pp=2), budget(100, cp=2)):
            check(llama, layout, "packed", True, "auto", ETR, experience, stretched)
    if world == 4:
        sparse = tiny_model("qwen3_moe")
        routed = reference(sparse, experience, ETR)
        for layout in (
            budget(100, ep=2, pp=2),
            budget(100, ep=2, cp=2),
        ):  # pp: and two data-parallel ranks in each stage
            check(sparse, layout, "packed", True, "auto", ETR, experience, routed, close=1e-4)
    # Fewer sequences than ranks, one of them without a response: ranks with nothing to learn from still take part.
    few = random_experience(dense.vocab_size, prompts=1, group=3, given_lengths=[5, 0, 9])
    few = replace(few, ref_logp=few.old_logp - 0.1)
    check(dense, budget(100), "packed", True, "auto", ETR, few, reference(dense, few, ETR))
    parallel.finish()


if __name__ == "__main__":
    main()
