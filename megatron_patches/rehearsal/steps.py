"""One step of reinforcement learning on one rank, phase by phase, in the project's own code; a ledger counts it.

Every micro-batch is as full as `layout.micro_batch_tokens` allows, so memory is that of the worst case.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state

from megatron_patches import parallel
from megatron_patches.model import checkpoint_saving, checkpoint_state
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.rehearsal.ledger import Ledger
from megatron_patches.training import batches, policy_loss
from megatron_patches.training.actor import Actor
from megatron_patches.training.optimizer import buffers_of, tensors_of
from megatron_patches.training.policy import Policy
from megatron_patches.training.policy_loss import Objective
from pipeline.rl.experience import Experience, Samples, Signal
from pipeline.settings import Settings


@dataclass(frozen=True)
class Load:
    """What the micro-batches of the rehearsed step hold."""

    sequences: int
    """In each micro-batch."""
    length: int
    """Tokens of each sequence, prompt and response."""
    micro_batches: int

    @classmethod
    def of(cls, settings: Settings) -> "Load":
        """Full micro-batches of equal sequences, as many as a pipeline holds at once and at least two."""
        longest = settings.rollout.max_prompt_tokens + settings.rollout.max_new_tokens
        budget, pp = settings.layout.micro_batch_tokens, settings.layout.pp
        sequences = max(1, round(budget / longest))
        return cls(sequences, min(longest, budget // sequences), max(2, pp))


def samples(settings: Settings, load: Load, copies: int) -> Samples:
    """Random sequences for `copies` data-parallel ranks."""
    rollout = settings.rollout
    count = load.sequences * load.micro_batches * copies
    share = rollout.max_prompt_tokens / (rollout.max_prompt_tokens + rollout.max_new_tokens)
    prompt = max(1, min(round(load.length * share), load.length - 1))
    response = load.length - prompt
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(settings.model.vocab_size, (count, load.length), generator=generator).tolist()
    logp = -torch.ones(count * response)
    return Samples(
        prompts=[row[:prompt] for row in ids],
        responses=[row[prompt:] for row in ids],
        index=torch.arange(count),
        offsets=torch.arange(count + 1) * response,
        rollout_logp=logp,
        raw_logp=logp.clone(),
    )


def signal(lengths: torch.Tensor) -> Signal:
    """Every response has an advantage, so none is left out."""
    count = len(lengths)
    return Signal(
        advantages=torch.ones(count),
        eps_low=torch.full((count,), 0.2),
        eps_high=torch.full((count,), 0.2),
        pass_rate=torch.full((count,), 0.5),
        lengths=lengths,
        group_size=1,
    )


def stream_shape(settings: Settings, found: Samples, load: Load) -> list[int]:
    """Shape of the hidden states that pipeline stages send each other."""
    layout = settings.layout
    micro = batches.build(found, list(range(load.sequences)), layout, 0, settings.rl.rows == "packed")
    rows, positions = micro.tokens.shape
    return [positions // (layout.tp if layout.sp else 1), rows, settings.model.hidden_size]


class Step:
    """The rank's actor, and the phases of a step with it."""

    def __init__(self, settings: Settings, ledger: Ledger, sampled_elsewhere: bool):
        self.settings, self.ledger = settings, ledger
        _name_groups(ledger)
        with ledger.phase("build"):
            self.actor = Actor(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
            checkpoint_saving.start_moments(self.actor.optimizer)  # a run makes them at its first optimizer step
            _mark_actor(self.actor, ledger)
            self.reference = None
            if settings.algo.kl_coef:
                self.reference = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
                for chunk in self.reference.chunks:
                    chunk.requires_grad_(False)
                    ledger.mark([*(p.data for p in chunk.parameters())], "reference")
        self.objective = Objective.of(settings.algo, settings.rl, settings.rollout, sampled_elsewhere)
        self._divide_phases()

    def score(self, found: Samples) -> None:
        """Log-probs before the update."""
        with self.ledger.phase("log-probs"):
            if self.objective.old_logprobs == "actor":
                self.actor.logprobs_and_entropy(found)
            if self.reference is not None:
                self.reference.logprobs(found)

    def update(self, found: Samples) -> dict[str, Any]:
        """One optimizer step."""
        logp = found.rollout_logp
        reference = logp.clone() if self.reference is not None else None
        experience = Experience.of(found, signal(found.lengths), logp.clone(), reference)
        with self.ledger.phase("update"):
            minibatch, metrics = self.actor.update(experience, torch.arange(len(found)), self.objective)
            if parallel.is_last_stage():
                policy_loss.add_up(minibatch.sums)
        return metrics

    def save(self) -> None:
        """What a checkpoint gathers; writing it needs host memory alone."""
        with self.ledger.phase("save"):
            state = checkpoint_state.sharded_state(self.actor.chunks, self.actor.optimizer, is_loading=False)
            del state

    def sync(self) -> None:
        """The buckets of a sync with an engine that has its own copy of the weights."""
        with self.ledger.phase("sync"):
            sender = BucketSender(
                self.actor.chunks, self.settings.model, int(self.settings.rollout.sync_bucket_mib * 2**20)
            )
            for _ in sender:
                pass

    def _divide_phases(self) -> None:
        """The optimizer step is a phase by itself; what the forward pass makes and keeps are activations."""
        ledger, optimizer = self.ledger, self.actor.optimizer
        step, finalize = optimizer.step, self.actor.config.finalize_model_grads_func

        def counted_step(*args: Any, **options: Any) -> Any:
            with ledger.phase("optimizer step"):
                return step(*args, **options)

        def counted_finalize(*args: Any, **options: Any) -> Any:
            with ledger.phase("gradients"):
                return finalize(*args, **options)

        optimizer.step = counted_step
        self.actor.config.finalize_model_grads_func = counted_finalize
        for policy in (self.actor, self.reference):
            for chunk in policy.chunks if policy is not None else ():
                forward = chunk.forward

                def counted_forward(*args: Any, forward: Any = forward, **options: Any) -> Any:
                    with ledger.part("activations"):
                        return forward(*args, **options)

                chunk.forward = counted_forward


def _mark_actor(actor: Actor, ledger: Ledger) -> None:
    for buffer in buffers_of(actor.chunks):
        ledger.mark([buffer.param_data], "weights")
        ledger.mark([buffer.grad_data], "gradients")
    for chunk in actor.chunks:
        ledger.mark([p.data for p in chunk.parameters()], "weights")
    on_device = (x for x in tensors_of(actor.optimizer) if x.device.type == actor.device.type)
    ledger.mark(on_device, "optimizer")


def _name_groups(ledger: Ledger) -> None:
    groups = {
        "model (tp x pp)": parallel_state.get_model_parallel_group(),
        "expert data": parallel_state.get_expert_data_parallel_group(),
        "expert": parallel_state.get_expert_model_parallel_group(),
        "data": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "context": parallel_state.get_context_parallel_group(),
        "pipeline": parallel_state.get_pipeline_model_parallel_group(),
        "tensor": parallel_state.get_tensor_model_parallel_group(),
    }
    ledger.group_names = {group.group_name: name for name, group in groups.items()}
    ledger.group_names["0"] = "world"
