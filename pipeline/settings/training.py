"""The two trainers: supervised warm-up (DeepSpeed) and reinforcement learning (Megatron-core)."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.base import Section


class SftPhase(Section):
    """A stretch of the warm-up with its own rows and learning rate."""

    rows: str
    """Which file of the preprocess stage: `sft` or `sft_mixed`."""
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)


class Sft(Section):
    """Supervised warm-up with DeepSpeed ZeRO on the Hugging Face model."""

    enabled: bool = True
    """False: the base model goes to RL as it is."""
    zero_stage: int = Field(1, ge=0, le=3)
    phases: list[SftPhase] = [SftPhase(rows="sft", steps=500, lr=1e-5)]
    """Trained one after the other."""
    batch_size: int = Field(64, ge=1)
    """Packed rows in one optimizer step, over all ranks."""
    micro_batch_size: int = Field(1, ge=1)
    """Packed rows in one forward of one rank."""
    sequence_length: int = Field(4096, ge=8)
    """Tokens of one packed row."""
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    save_every: int = Field(200, ge=1)
    """Steps between checkpoints from which a killed warm-up continues."""
    gradient_checkpointing: bool = True


class Optimizer(Section):
    """Adam of the actor (AdamW, fp32 masters, distributed over data-parallel ranks)."""

    lr: float = Field(1e-6, gt=0)
    min_lr: float = Field(0.0, ge=0)
    warmup_steps: int = Field(10, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "constant"
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float = Field(1.0, ge=0)
    distributed: bool = True
    """Shard optimizer state over data-parallel ranks (ZeRO-1)."""


class Rl(Section):
    """The reinforcement learning loop."""

    steps: int = Field(200, ge=1)
    """Rollout batches."""
    prompts_per_step: int = Field(128, ge=1)
    group_size: int = Field(8, ge=2)
    """Responses for each prompt."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in one pass over a rollout batch."""
    epochs: int = Field(1, ge=1)
    """Passes over a rollout batch."""
    optimizer: Optimizer = Optimizer()
    rows: Literal["padded", "packed"] = "packed"
    """How sequences lie in a micro-batch: padded rows of similar length, or packed end to end (THD)."""
    async_depth: int = Field(0, ge=0, le=1)
    """1: the next batch is generated while this one is trained (one step off-policy)."""
    save_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    keep_best: str | None = None
    """A metric of metrics.jsonl (`reward/mean`, `eval/...`): the checkpoint where it was largest is kept as well."""
    max_skipped: int = Field(3, ge=1)
    """Optimizer steps in a row that may be skipped because loss or gradient are not finite; then the run ends."""
    load: str | None = None
    """Folder of a Megatron distributed checkpoint to start from, in place of the converted base; none: the base."""
    load_optimizer: bool = False
    """`load`: read the optimizer's state as well."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations on the held-out sets; 0: none during training."""
    sample_rollouts: int = Field(4, ge=0)
    """Rollouts of each step kept in samples.jsonl for the report."""
    min_pass_rate: float | None = Field(None, ge=0, le=1)
    max_pass_rate: float | None = Field(None, ge=0, le=1)
    """Keep only prompts whose offline pass rate (stage=rollout) lies strictly between these."""
    dynamic_sampling_rounds: int = Field(4, ge=1)
    """Most generation rounds in one step when `algo.dynamic_sampling` is on."""
    recompute: bool = False
    """Recompute every layer's activations in the backward pass."""
    token_head: Literal["auto", "recompute", "fused"] = "auto"
    """How the policy head forms its gradient; auto: fused wherever the loss is separable by token."""
    head_chunk_tokens: int | None = Field(None, ge=1)
    """Positions whose logits the policy head holds at once; none: what suits the device (docs/policy-head.md)."""

    @model_validator(mode="after")
    def _check(self) -> "Rl":
        if self.load_optimizer and self.load is None:
            raise ValueError("rl.load_optimizer=true needs rl.load=<checkpoint folder>")
        low, high = self.min_pass_rate, self.max_pass_rate
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"rl.min_pass_rate={low:g} is not below rl.max_pass_rate={high:g}, so no prompt lies between"
            )
        return self
