"""The actor: the policy that learns. DDP, optimizer, schedule and the patched loss around the model."""

from collections.abc import Callable

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from megatron_patches.model.policy_model import Head
from megatron_patches.training.batches import MicroBatch
from megatron_patches.training.optimizer import build_optimizer, build_scheduler
from megatron_patches.training.policy import Policy
from megatron_patches.training.policy_loss import MinibatchLoss, Objective, finalize_grads
from pipeline.common.errors import UsageError
from pipeline.rl.experience import Experience
from pipeline.settings import Layout, Model, Rl


class Actor(Policy):
    """The policy that learns: DDP, optimizer, schedule and the patched loss around the model."""

    def __init__(self, model: Model, layout: Layout, rl: Rl, temperature: float):
        """Arguments as `Policy`'s. Raises UsageError for a load-balancing loss, which would be weighed wrongly."""
        if model.experts.aux_loss_coef:
            raise UsageError(
                f"model.experts.aux_loss_coef={model.experts.aux_loss_coef}: reinforcement learning sums gradients over "
                "tokens, but Megatron's load-balancing loss expects a mean. Set it to 0."
            )
        super().__init__(model, layout, rl, temperature)
        optimizer = rl.optimizer
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
        total = rl.steps * rl.minibatches * rl.epochs
        self.scheduler = build_scheduler(self.optimizer, optimizer, total)
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.finalize_model_grads_func = finalize_grads

    def weights_changed(self) -> None:
        """Call after loading weights from outside a checkpoint: copies them into the optimizer's fp32 master weights."""
        self.optimizer.reload_model_params()

    def update(self, experience: Experience, chosen: torch.Tensor, objective: Objective) -> tuple[MinibatchLoss, dict]:
        """One optimizer step on the step's sequences `chosen` [n]: forward and backward of all micro-batches through Megatron's
        schedule, then Adam. Every rank calls it with the same arguments.

        Returns the minibatch's loss, which holds this rank's metric sums (`reduce_metrics`), and `optim/*` of the step.
        """
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        minibatch = MinibatchLoss(objective, experience, chosen)

        def step(micro: MicroBatch) -> tuple[Head, Callable]:
            return minibatch.bind(micro, self.head_options(micro))

        self._run(experience, minibatch.rows.tolist(), step, forward_only=False)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        succeeded, grad_norm, _ = self.optimizer.step()
        if succeeded:
            self.scheduler.step(increment=1)
        return minibatch, {
            "optim/grad_norm": float(grad_norm or 0.0),
            "optim/lr": float(learning_rate),
            "optim/skipped": float(not succeeded),
        }
