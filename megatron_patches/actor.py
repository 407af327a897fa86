"""The actor: a policy in Megatron's clothes. Log-probs and updates of whole batches of experience, at any layout."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module

from megatron_patches import batches, parallel
from megatron_patches.batches import MicroBatch
from megatron_patches.optimizer import build_optimizer, build_scheduler
from megatron_patches.policy_head import token_logprobs
from megatron_patches.policy_loss import PolicyLoss
from megatron_patches.policy_model import Head, build_chunks
from pipeline.experience import Experience
from pipeline.settings import Settings


class Policy:
    """A model that scores responses: the actor's base, and the frozen reference.

    Every rank of the world calls every method, with the same experience.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.layout = settings.layout
        self.packed = settings.rl.rows == "packed"
        self.device = parallel.device()
        self.chunks: list[Any] = build_chunks(settings.model, settings.layout, settings.rl.recompute)
        self.config = self.chunks[0].config
        if self.config.bf16:
            self.chunks = [Float16Module(self.config, chunk) for chunk in self.chunks]

    def logprobs(self, experience: Experience) -> torch.Tensor:
        """Log-prob of every response token at temperature 1, fp32 `[T]` on the CPU, on every rank."""
        results: list[tuple[torch.Tensor, torch.Tensor]] = []

        def step(micro: MicroBatch) -> tuple[Head, Callable]:
            def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
                logp, _ = token_logprobs(
                    _flat(hidden), weight, micro.targets, need_entropy=False, **self.head_options(micro)
                )
                return logp[micro.index]

            def collect(logp: torch.Tensor):
                results.append((micro.source, logp.float().cpu()))
                return logp.sum(), torch.tensor(1, dtype=torch.int), {}

            return head, collect

        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            self._run(experience, list(range(len(experience))), step, forward_only=True)
        whole = torch.zeros(int(experience.offsets[-1]))
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            for source, logp in results:
                whole[source] = logp
        # Each token was scored by one data- and context-parallel rank of the last stage; the rest of the world holds 0.
        whole = whole.to(self.device)
        dist.all_reduce(whole)
        return whole.cpu()

    def head_options(self, micro: MicroBatch) -> dict[str, Any]:
        """What both modes of the policy head take from here."""
        return {
            "tp_group": parallel_state.get_tensor_model_parallel_group(),
            "vocab_size": self.settings.model.vocab_size,
            "index": micro.index,
            "sequence_parallel": self.layout.sp,
            "chunk_tokens": self.settings.rl.head_chunk_tokens,
        }

    def _run(
        self,
        experience: Experience,
        chosen: list[int],
        step: Callable[[MicroBatch], tuple[Head, Callable]],
        forward_only: bool,
    ) -> None:
        """All micro-batches of `chosen` through Megatron's schedule; `step` gives each its head and loss function."""
        planned = batches.plan(experience, chosen, self.layout, parallel.data_parallel_size(), self.packed)
        mine = planned[parallel.data_parallel_rank()]
        cp_rank = parallel_state.get_context_parallel_rank()
        micros = [batches.build(experience, rows, self.layout, cp_rank, self.packed).to(self.device) for rows in mine]

        def forward_step(iterator: Iterator[MicroBatch], model) -> tuple[Any, Callable]:
            micro = next(iterator)
            head, loss = step(micro)
            packed = micro.packed
            return model(micro.tokens, micro.position_ids, None, packed_seq_params=packed, head=head), loss

        iterators = [iter(micros) for _ in self.chunks]
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=len(micros),
            seq_length=self.settings.model.max_position_embeddings,  # shapes are exchanged where they matter (PP)
            micro_batch_size=1,
            forward_only=forward_only,
        )


class Actor(Policy):
    """The policy that learns: DDP, optimizer, schedule and the patched loss around the model."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        optimizer = settings.rl.optimizer
        # Buckets are filled in place from here on, so weights may still be loaded after the wrapping.
        self.chunks = [
            DistributedDataParallel(
                self.config,
                DistributedDataParallelConfig(
                    grad_reduce_in_fp32=True, use_distributed_optimizer=optimizer.distributed
                ),
                chunk,
                disable_bucketing=i > 0,
            )
            for i, chunk in enumerate(self.chunks)
        ]
        self.optimizer = build_optimizer(self.chunks, optimizer, self.config.params_dtype)
        total = settings.rl.steps * settings.rl.minibatches * settings.rl.epochs
        self.scheduler = build_scheduler(self.optimizer, optimizer, total)
        self.config.grad_scale_func = self.optimizer.scale_loss
        # The policy loss carries its global denominator, so gradients are summed and divided by nothing (patch
        # `global-loss`): upstream's hook is called without a token count.
        self.config.finalize_model_grads_func = lambda chunks, _tokens, **kw: finalize_model_grads(chunks, None, **kw)

    def weights_changed(self) -> None:
        """Call after loading weights from outside a checkpoint: the optimizer's fp32 masters are copied anew."""
        self.optimizer.reload_model_params()

    def update(self, experience: Experience, chosen: torch.Tensor, loss: PolicyLoss) -> dict[str, Any]:
        """One optimizer step on the sequences `chosen` [n]; returns the loss's metric sums of this rank and `optim/*`."""
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        minibatch = loss.minibatch(experience, chosen)

        def step(micro: MicroBatch) -> tuple[Head, Callable]:
            return minibatch.bind(micro, self.head_options(micro))

        self._run(experience, chosen.tolist(), step, forward_only=False)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        succeeded, grad_norm, _ = self.optimizer.step()
        if succeeded:
            self.scheduler.step(increment=1)
        return {
            "optim/grad_norm": float(grad_norm or 0.0),
            "optim/lr": float(learning_rate),
            "optim/skipped": float(not succeeded),
        }


def _flat(hidden: torch.Tensor) -> torch.Tensor:
    """[s, b, h] -> [s * b, h]."""
    return hidden.reshape(-1, hidden.shape[-1])


__all__ = ["Actor", "Policy", "nullcontext"]
