"""The policy loss inside Megatron's schedule (patches `policy-head` and `global-loss`).

The formula is `pipeline.objectives.policy_loss`. This module hands it the trainer's numbers: `Objective` is what a run
minimises, `MinibatchLoss` knows the denominators of one optimizer step, and its `bind` makes of a micro-batch the two
functions that Megatron calls: the head, in the model's forward, and the loss function after it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed.finalize_model_grads import finalize_model_grads

from megatron_patches import parallel
from megatron_patches.model.policy_model import Head
from megatron_patches.policy_head import fused_policy_head, token_logprobs
from megatron_patches.training.batches import MicroBatch
from megatron_patches.training.policy import flat
from pipeline.common.errors import UsageError
from pipeline.objectives import (
    MetricSums,
    PolicyLossInputs,
    Tokens,
    add_up,
    counterfactual_metrics,
    denominator,
    losses,
    needs_sequences,
    policy_loss,
    prepare,
)
from pipeline.objectives.metrics.token import left_out
from pipeline.objectives.tokens import LOG_RATIO_LIMIT
from pipeline.rl.experience import Experience
from pipeline.settings import Algo, Rl, Rollout

OldLogprobs = Literal["actor", "engine", "none"]


@dataclass(frozen=True)
class Objective:
    """What a run minimises, and how its gradient is formed."""

    config: Algo
    fused: bool
    """The policy head forms each chunk's gradient while its logits are at hand; for losses that are separable by token."""
    length_norm: float
    """Greatest response length, by which `seq-mean-token-sum-norm` divides."""
    old_logprobs: OldLogprobs = "actor"
    """Where old log-probs come from: a pass of the actor before the update, the rollout engine, or nowhere (`none`): if the
    update is one optimizer step, the policy that it starts from is the one that is trained, and all ratios are 1."""

    @property
    def everything(self) -> bool:
        """False if a response whose advantage is 0 has loss and gradient 0, so that updates leave it out."""
        return bool(self.config.kl_coef or self.config.entropy_coef) or not losses.of(self.config).needs_signal

    @property
    def needs_entropy(self) -> bool:
        """Whether the update works out entropies; the policy's entropy is logged from the pass of the old log-probs."""
        return bool(self.config.entropy_coef) or losses.of(self.config).needs_entropy

    @classmethod
    def of(cls, algo: Algo, rl: Rl, rollout: Rollout, sampled_elsewhere: bool = False) -> "Objective":
        """`sampled_elsewhere`: another engine than the actor samples, or older weights do, so that
        `algo.is_weight=auto` means on.

        Raises:
            UsageError: `rl.token_head=fused` for a loss that mixes the tokens of a sequence, or `rl.old_logprobs=engine`
                where the engine's log-probs are not those of the policy.
        """
        if sampled_elsewhere and algo.is_weight == "auto":
            algo = algo.model_copy(update={"is_weight": "on"})
        separable = losses.of(algo).separable
        fused = separable if rl.token_head == "auto" else rl.token_head == "fused"
        if fused and not separable:
            raise UsageError(
                f"rl.token_head=fused: {losses.of(algo).name} mixes the tokens of a sequence. Use rl.token_head=recompute."
            )
        if rl.old_logprobs == "engine" and (rollout.top_p < 1 or rollout.top_k):
            raise UsageError(
                "rl.old_logprobs=engine: with rollout.top_p or rollout.top_k the engine's log-probs are those of a cut"
                " distribution. Use rl.old_logprobs=actor, or rollout.top_p=1 rollout.top_k=0."
            )
        one_step = rl.minibatches * rl.epochs == 1
        old: OldLogprobs = "none" if one_step and not needs_sequences(algo) else "actor"
        return cls(algo, fused, rollout.max_new_tokens, old if rl.old_logprobs == "auto" else rl.old_logprobs)


class MinibatchLoss:
    """The loss over the sequences `chosen` [n] of one optimizer step, over all ranks and micro-batches; collects its
    metrics.

    `chosen` are numbers of the step's sequences. Those that the experience leaves out add 0 to the loss, so they count in
    its denominator only.
    """

    def __init__(self, objective: Objective, experience: Experience, chosen: torch.Tensor):
        self.objective = objective
        self.config = objective.config
        self.experience = experience
        self.rows = experience.rows_of(chosen)
        """int64 [n], the sequences of `experience` that take part."""
        signal = experience.signal
        lengths = signal.lengths[chosen]
        self.denominator = denominator(self.config, tokens=float(lengths.sum()), sequences=float((lengths > 0).sum()))
        absent = chosen[~torch.isin(chosen, experience.index)]
        self.left_out = left_out(signal.lengths[absent], signal.pass_rate[absent])
        self.sums: list[MetricSums] = []
        self.bounds: tuple[float, float] | None = None
        """One pair of bounds for the whole minibatch, once `choose_bounds` has chosen it; None: those of the responses."""

    @property
    def searches_bounds(self) -> bool:
        """Whether the loss chooses the minibatch's bounds from its ratios, so that `choose_bounds` must be called first."""
        return losses.of(self.config).minibatch_rule is not None and len(self.rows) > 0

    def choose_bounds(self, logp: torch.Tensor | None) -> None:
        """Chooses one pair of bounds from all tokens of the minibatch, the same on every rank.

        `logp`: fp32 [t], log-probs of the sequences `rows` under the current weights; None: every ratio is 1.
        """
        experience, rule = self.experience, losses.of(self.config).minibatch_rule
        assert rule is not None
        advantages = experience.advantages[self.rows].repeat_interleave(experience.lengths[self.rows]).double()
        log_ratio = torch.zeros_like(advantages)
        if logp is not None and experience.old_logp is not None:
            log_ratio = (logp - experience.old_logp[experience.tokens_of(self.rows)]).double()
        finite = torch.isfinite(log_ratio) & torch.isfinite(advantages)
        ratio = log_ratio[finite].clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        self.bounds = rule(ratio, advantages[finite], self.config)

    def bind(self, micro: MicroBatch, options: dict[str, Any]) -> tuple[Head, Callable]:
        """Head and loss function of one micro-batch; `options` are the policy head's."""
        config, needs_entropy = self.config, self.objective.needs_entropy
        options = options | {"need_entropy": needs_entropy}
        prepared = prepare(self._inputs(micro), config)

        def fused(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            def chunk_loss(where, logp, entropy):
                tokens = prepared.tokens(logp, entropy if needs_entropy else None, where)
                return policy_loss(tokens, config, metrics=False)[0]

            loss, logp, entropy = fused_policy_head(flat(hidden), weight, micro.targets, chunk_loss, **options)
            with torch.no_grad():
                tokens = prepared.tokens(logp, entropy if needs_entropy else None)
                self.count(policy_loss(tokens, config)[1], tokens, micro)
            return loss

        def recompute(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            entropy_grad = bool(config.entropy_coef)
            logp, entropy = token_logprobs(flat(hidden), weight, micro.targets, entropy_grad=entropy_grad, **options)
            tokens = prepared.tokens(logp, entropy if needs_entropy else None)
            loss, metrics = policy_loss(tokens, config)
            self.count(metrics, tokens, micro)
            return loss.to(logp.dtype)

        def finish(loss: torch.Tensor):
            # The count divides nothing (patch `global-loss`); upstream only wants to see one.
            return loss, torch.ones((), dtype=torch.int, device=loss.device), {}

        return (fused if self.objective.fused else recompute), finish

    def count(self, metrics: MetricSums, tokens: Tokens, micro: MicroBatch) -> None:
        """Keeps the metrics of a micro-batch, with those of the counterfactual bounds if the signal has any."""
        family = self.experience.signal.family
        if family is not None:
            of_rows = family[:, :, self.experience.index].double()
            bounds = torch.stack([torch.stack([by_sequence(eps, micro) for eps in pair]) for pair in of_rows])
            metrics = metrics + counterfactual_metrics(tokens, self.config, bounds)
        self.sums.append(metrics)

    def _inputs(self, micro: MicroBatch) -> PolicyLossInputs:
        """Everything but the log-probs, in the order of the flattened hidden states `[T]`."""
        experience = self.experience
        eps_low, eps_high = self.bounds or (
            by_sequence(experience.eps_low, micro),
            by_sequence(experience.eps_high, micro),
        )

        def by_token(values: torch.Tensor) -> torch.Tensor:
            return spread(values[micro.source], micro)

        return PolicyLossInputs(
            logp=None,
            old_logp=None if experience.old_logp is None else by_token(experience.old_logp),
            rollout_logp=by_token(experience.rollout_logp),
            ref_logp=None if experience.ref_logp is None else by_token(experience.ref_logp),
            advantages=by_sequence(experience.advantages, micro),
            eps_low=eps_low,
            eps_high=eps_high,
            pass_rate=by_sequence(experience.pass_rate, micro),
            mask=spread(torch.ones(len(micro.source), dtype=torch.bool), micro),
            sequence=spread(micro.row, micro),
            lengths=experience.lengths[micro.rows].to(micro.targets.device),
            denominator=self.denominator,
            length_norm=self.objective.length_norm,
            reduce=_sum_over_context if parallel_state.get_context_parallel_world_size() > 1 else None,
        )


def spread(values: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
    """A micro-batch's response tokens [t] in the order of its flattened hidden states [T], 0 elsewhere."""
    whole = torch.zeros(micro.total, dtype=values.dtype, device=micro.targets.device)
    whole[micro.index] = values.to(whole.device)
    return whole


def by_sequence(values: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
    """One number for each sequence of the experience, at each of the micro-batch's tokens [T]."""
    return spread(values[micro.rows[micro.row]], micro)


def finalize_grads(chunks: list, _num_tokens: torch.Tensor | None, **options: Any) -> None:
    """Gradients summed over ranks and divided by nothing: the policy loss carries its global denominator already.

    Upstream's hook (megatron-core 0.16.1, distributed/finalize_model_grads.py) divides by the count of tokens that the
    loss function returned, over all ranks, unless it is called without one.
    """
    finalize_model_grads(chunks, None, **options)


def reduce_metrics(minibatches: list[MinibatchLoss]) -> dict[str, Any]:
    """Named metrics of a step's minibatches over all ranks, the same on every rank (a collective).

    Tensor-parallel ranks hold the same sums; data- and context-parallel ranks each hold their own tokens, and only the
    last pipeline stage holds any.
    """
    named: list[dict[str, Any] | None] = [None]
    if parallel.is_last_stage():
        total = add_up([part for minibatch in minibatches for part in minibatch.sums])
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        total = total.all_reduce(group)
        for minibatch in minibatches:
            total = total.add_counts(minibatch.left_out)
        named = [total.finalize(updates=len(minibatches))]
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast_object_list(named, src=last, group=parallel_state.get_pipeline_model_parallel_group())
    assert named[0] is not None
    return named[0]


def _sum_over_context(values: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(values, group=parallel_state.get_context_parallel_group())
    return values
