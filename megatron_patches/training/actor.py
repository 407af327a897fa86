"""The actor: the policy that learns. DDP, optimizer, schedule and the patched loss around the model."""

from collections.abc import Callable

import torch
from megatron.core.distributed import DistributedDataParallel

from megatron_patches.model import levers
from megatron_patches.model.finite import anywhere, first_nonfinite, first_on_any_rank, named_weights
from megatron_patches.model.policy_model import Head
from megatron_patches.training.batches import MicroBatch
from megatron_patches.training.optimizer import (
    LARGEST_NORM,
    build_optimizer,
    build_scheduler,
    gradients_are_usable,
    named_gradients,
)
from megatron_patches.training.parking import Parking, storages_of
from megatron_patches.training.policy import Policy
from megatron_patches.training.policy_loss import MinibatchLoss, Objective, finalize_grads
from pipeline.common.errors import DivergenceError, UsageError
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
            DistributedDataParallel(self.config, levers.of_gradients(rl), chunk, disable_bucketing=i > 0)
            for i, chunk in enumerate(self.chunks)
        ]
        self.optimizer = build_optimizer(self.chunks, optimizer, self.config.params_dtype)
        total = rl.steps * rl.minibatches * rl.epochs
        self.scheduler = build_scheduler(self.optimizer, optimizer, total)
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.finalize_model_grads_func = finalize_grads
        if rl.overlap_grad_reduce:  # only the last micro-batch's gradients are sent
            waits = [chunk.no_sync for chunk in self.chunks]
            self.config.no_sync_func = waits if len(waits) > 1 else waits[0]
        self.skipped_in_a_row, self.max_skipped = 0, rl.max_skipped
        """Optimizer steps since the last one that changed the weights."""
        self._loss_is_finite = True
        self._parking = Parking()

    def park(self) -> None:
        for part in self.rl.offload:
            # Every update starts with zero gradients.
            self._parking.leave(part, storages_of(self, part), keeps=part != "gradients")
        if self.rl.offload and self.device.type == "cuda":
            torch.cuda.empty_cache()  # the engine allocates by itself

    def fetch(self, weights_only: bool = False) -> None:
        for part in ["weights"] if weights_only else self.rl.offload:
            self._parking.fetch(part)

    def weights_changed(self) -> None:
        """Call after loading weights from outside a checkpoint: copies them into the optimizer's fp32 master weights."""
        self.optimizer.reload_model_params()

    def update(
        self, experience: Experience, chosen: torch.Tensor, objective: Objective, followed: bool = False
    ) -> tuple[MinibatchLoss, dict]:
        """One optimizer step on the step's sequences `chosen` [n]: forward and backward of all micro-batches through Megatron's
        schedule, then Adam. Every rank calls it with the same arguments. `followed`: another update comes before anything
        else reads the weights, so that its forward pass may gather them (`rl.overlap_param_gather`).

        A step whose loss or gradient is not finite on any rank is skipped on every rank: it changes neither weights nor
        Adam's moments.

        Returns the minibatch's loss, which holds this rank's metric sums (`reduce_metrics`), and `optim/*` of the step.
        """
        minibatch = MinibatchLoss(objective, experience, chosen)
        if minibatch.searches_bounds:
            known = experience.old_logp is None  # the weights are those of the old log-probs: every ratio is 1
            minibatch.choose_bounds(None if known else self.logprobs(experience.select(minibatch.rows)))
        for chunk in self.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses: list[torch.Tensor] = []

        def step(micro: MicroBatch) -> tuple[Head, Callable]:
            head, finish = minibatch.bind(micro, self.head_options(micro))

            def watched(loss: torch.Tensor):
                losses.append(loss.detach().float().clone())  # the schedule divides it in place
                return finish(loss)

            return head, watched

        self._run(experience, minibatch.rows.tolist(), step, forward_only=False)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._loss_is_finite = not losses or bool(torch.isfinite(torch.stack(losses)).all())
        # Megatron looks for infinities only where it scales an fp16 loss (megatron-core 0.16.1, optimizer.py:542).
        usable = not anywhere(not (self._loss_is_finite and gradients_are_usable(self.chunks)))
        succeeded, grad_norm = False, float("nan")
        if usable:
            succeeded, grad_norm, _ = self.optimizer.step()
        if succeeded:
            self.scheduler.step(increment=1)
            if self.rl.overlap_param_gather and not followed:
                for chunk in self.chunks:
                    chunk.start_param_sync(force_sync=True)
        self.skipped_in_a_row = 0 if succeeded else self.skipped_in_a_row + 1
        return minibatch, {
            "optim/grad_norm": float(grad_norm or 0.0),
            "optim/lr": float(learning_rate),
            "optim/skipped": float(not succeeded),
        }

    def check_skipped(self, step: int) -> None:
        """Raises DivergenceError after `rl.max_skipped` skipped optimizer steps in a row (a collective then), naming the first
        tensor that is not finite: a weight, otherwise a gradient, otherwise the loss."""
        if self.skipped_in_a_row < self.max_skipped:
            return
        weight = first_on_any_rank(first_nonfinite(named_weights(self.chunks)))
        gradient = first_on_any_rank(first_nonfinite(named_gradients(self.chunks)))
        rank, name = (
            weight
            or gradient
            or first_on_any_rank(None if self._loss_is_finite else "the loss")
            or (0, f"the gradient's norm (above {LARGEST_NORM:g})")
        )
        loss = "" if name == "the loss" else " The loss is not finite either." * (not self._loss_is_finite)
        raise DivergenceError(
            f"Step {step}: {self.skipped_in_a_row} optimizer steps in a row were skipped (rl.max_skipped), because {name} "
            f"on rank {rank} is not finite.{loss} The weights are those of the last step that was not skipped, and earlier "
            "checkpoints are untouched. Use a smaller rl.optimizer.lr in a new run (name=...), or correct the loss."
        )
