"""The two trainers: supervised warm-up (DeepSpeed) and reinforcement learning (Megatron-core)."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.base import Section


class SftPhase(Section):
    """A part of the warm-up with its own rows and learning rate."""

    rows: Literal["sft", "sft_mixed"]
    """Which file of the preprocess stage: `sft` or `sft_mixed`."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    lr: float = Field(gt=0)
    """Learning rate after warm-up."""


class Sft(Section):
    """Supervised warm-up with DeepSpeed ZeRO on the Hugging Face model."""

    enabled: bool = True
    """False: the base model goes to RL as it is."""
    zero_stage: int = Field(1, ge=0, le=3)
    """ZeRO stage: 1 shards optimizer state over ranks, 2 gradients too, 3 weights too."""
    phases: list[SftPhase] = [SftPhase(rows="sft", steps=500, lr=1e-5)]
    """Trained one after the other."""
    batch_size: int = Field(64, ge=1)
    """Packed rows in one optimizer step, over all ranks."""
    micro_batch_size: int = Field(1, ge=1)
    """Most packed rows in one forward pass of one rank."""
    sequence_length: int = Field(4096, ge=8)
    """Tokens of one packed row."""
    warmup_steps: int = Field(20, ge=0)
    """Steps over which each phase's learning rate rises to `lr`."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay, on matrices only."""
    clip_grad: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    save_every: int = Field(200, ge=1)
    """Steps between checkpoints from which a killed warm-up continues."""
    max_skipped: int = Field(3, ge=1)
    """Optimizer steps in a row that may be skipped because loss or gradient are not finite; then the warm-up ends."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass, to save memory."""


class Optimizer(Section):
    """Adam of the actor (AdamW, fp32 masters, distributed over data-parallel ranks)."""

    lr: float = Field(1e-6, gt=0)
    """Learning rate after warm-up."""
    min_lr: float = Field(0.0, ge=0)
    """Learning rate at the end of a linear or cosine decay."""
    warmup_steps: int = Field(10, ge=0)
    """Optimizer steps over which the learning rate rises to `lr`."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from `lr` to `min_lr` after warm-up; constant: not at all."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Adam's decay rate of the first moment."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Adam's decay rate of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Adam's epsilon."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    clip_grad: float = Field(1.0, ge=0)
    """Largest norm of the gradient; 0: no clipping."""
    distributed: bool = True
    """Shard optimizer state over data-parallel ranks (ZeRO-1)."""
    precision_aware: bool = False
    """Transformer Engine's Adam keeps of each fp32 master only the 16 bits that its bf16 weight lacks: the same numbers in half
    the memory."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """`precision_aware`: the type of Adam's two moments."""
    cpu_offload: bool = False
    """Keep Adam's two moments in host memory, 8 bytes a parameter, and bring them to the device part by part in each step."""

    @model_validator(mode="after")
    def _check(self) -> "Optimizer":
        if self.min_lr > self.lr:
            raise ValueError(f"rl.optimizer.min_lr={self.min_lr:g} is above rl.optimizer.lr={self.lr:g}")
        if self.precision_aware and (self.cpu_offload or not self.distributed):
            raise ValueError(
                "rl.optimizer.precision_aware=true needs rl.optimizer.distributed=true and rl.optimizer.cpu_offload=false"
            )
        if self.moments == "bf16" and self.beta2 > 0.99:
            raise ValueError(
                f"rl.optimizer.moments=bf16 with rl.optimizer.beta2={self.beta2:g}: a step changes the second moment by at most"
                f" {1 - self.beta2:g} of itself, which bf16 (steps of 0.004 to 0.008) rounds away. Use beta2 of at most 0.99"
            )
        return self


class Rl(Section):
    """The reinforcement learning loop."""

    steps: int = Field(200, ge=1)
    """Steps; each samples one rollout batch and trains on it."""
    prompts_per_step: int = Field(128, ge=1)
    """Prompts in one rollout batch."""
    group_size: int = Field(8, ge=2)
    """Responses for each prompt."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in one pass over a rollout batch."""
    epochs: int = Field(1, ge=1)
    """Passes over a rollout batch."""
    optimizer: Optimizer = Optimizer()
    """The actor's optimizer."""
    routing_replay: Literal["none", "actor", "engine"] = "none"
    """Mixture of experts: whose choice of experts the update uses. none: its own in each optimizer step; actor: that of the
    pass of old log-probs; engine: that of the native rollout engine, in the pass of old log-probs as well (docs/levers.md)."""
    rows: Literal["padded", "packed"] = "packed"
    """How sequences are placed in a micro-batch: padded rows of similar length, or packed end to end (THD)."""
    old_logprobs: Literal["auto", "actor", "engine"] = "auto"
    """Log-probs that ratios start from. actor: a forward pass before each update; engine: the rollout engine's own; auto:
    actor, but no pass if an update is one optimizer step (minibatches x epochs = 1), where every ratio is 1, unless
    `algo.is_form=sequence_mis` needs it."""
    async_depth: int = Field(0, ge=0)
    """Batches that are sampled ahead, so that a batch is up to this many steps off-policy; with standalone servers while the
    actor trains."""
    save_every: int = Field(20, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(3, ge=1)
    """Newest checkpoints that are kept."""
    keep_best: str | None = None
    """A metric of metrics.jsonl (`reward/mean`, `eval/...`): the checkpoint where it was largest is kept as well."""
    export_every: int = Field(0, ge=0)
    """Steps between exports to `exports/step_<n>`, Hugging Face folders that stay as long as the checkpoint saved with each; 0:
    none."""
    async_save: bool = False
    """Write checkpoints in a thread while training goes on, from a copy of the state in host memory."""
    max_skipped: int = Field(3, ge=1)
    """Optimizer steps in a row that may be skipped because loss or gradient are not finite; then the run ends."""
    load: str | None = None
    """Folder of a Megatron distributed checkpoint to start from, in place of the converted base; none: the base."""
    load_optimizer: bool = False
    """`load`: read the optimizer's state as well."""
    eval_every: int = Field(0, ge=0)
    """Steps between evaluations on the held-out sets; 0: none during training."""
    counterfactual: bool = False
    """Log what the bounds of other algorithms would cut on the same tokens (docs/objective.md, "Counterfactual clip")."""
    sample_rollouts: int = Field(4, ge=0)
    """Groups of each step kept in samples.jsonl for the report, each with all its `group_size` responses."""
    keep_samples: int = Field(20, ge=0)
    """Newest steps whose responses are kept whole in `samples/` (12 bytes a token and the text), so that stage=replay can make
    them again: `save_every` reaches back to the newest checkpoint; 0: none."""
    min_pass_rate: float | None = Field(None, ge=0, le=1)
    """Train only on prompts whose offline pass rate (stage=rollout) is above this."""
    max_pass_rate: float | None = Field(None, ge=0, le=1)
    """Train only on prompts whose offline pass rate (stage=rollout) is below this."""
    dynamic_sampling_rounds: int = Field(4, ge=1)
    """Most generation rounds in one step if `algo.dynamic_sampling` is on."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What of the forward pass is run again in the backward pass, so that its activations need not be kept. selective:
    `recompute_modules` of each layer; full: whole layers."""
    recompute_modules: list[Literal["core_attn", "mlp", "moe"]] = []
    """selective: the parts of a layer to run again; empty: the MLP (mlp, in a model with experts moe)."""
    recompute_method: Literal["uniform", "block"] = "uniform"
    """full: uniform keeps the input of every `recompute_layers` layers; block runs only the first `recompute_layers` layers
    of each model chunk again and keeps the activations of the others."""
    recompute_layers: int = Field(1, ge=1)
    """full: layers between two kept inputs (uniform), or layers that are run again (block)."""
    offload: list[Literal["weights", "gradients", "optimizer"]] = []
    """Parts of the actor that leave the device while a colocated engine generates. Weights and optimizer go to host memory and
    come back for the update; gradients are freed. Weights only with vLLM: the native engine generates from them."""
    fused_swiglu: bool = False
    """Keep only the input of the MLP's activation, and compute gate, up and their product in one function, forward and
    backward."""
    fused_rope: bool = False
    """Rotate queries and keys in one of Transformer Engine's kernels."""
    fused_grad_accumulation: bool = False
    """Add weight gradients to the fp32 buffer inside their product, without rounding them to bf16 first."""
    attention: Literal["torch", "te"] = "torch"
    """Attention in training: torch's kernels, or Transformer Engine's (FlashAttention or cuDNN), which needs `fused_rope`."""
    fp8: Literal["none", "tensorwise", "blockwise", "mxfp8"] = "none"
    """Products of the layers in FP8 by this recipe of Transformer Engine; weights, sums and the policy head are as without."""
    grouped_experts: bool = False
    """Mixture of experts: one product for all experts of a rank, instead of one for each."""
    overlap_grad_reduce: bool = False
    """Sum gradients over data-parallel ranks bucket by bucket while the backward pass goes on."""
    overlap_param_gather: bool = False
    """Gather updated weights from data-parallel ranks bucket by bucket during the next update's forward pass; needs
    `overlap_grad_reduce` and `optimizer.distributed`."""
    token_head: Literal["auto", "recompute", "fused"] = "auto"
    """How the policy head forms its gradient; auto: fused if the loss is separable by token, recompute otherwise."""
    head_chunk_tokens: int | None = Field(None, ge=1)
    """Positions whose logits the policy head holds at once; none: as many as suit the device (docs/policy-head.md)."""

    @field_validator("recompute", mode="before")
    @classmethod
    def _from_yes_or_no(cls, value: Any) -> Any:
        """Earlier configurations say true (full) or false."""
        return {True: "full", False: "none", "true": "full", "false": "none"}.get(value, value)

    @model_validator(mode="after")
    def _check(self) -> "Rl":
        if self.overlap_param_gather and not (self.overlap_grad_reduce and self.optimizer.distributed):
            raise ValueError(
                "rl.overlap_param_gather=true needs rl.overlap_grad_reduce=true and rl.optimizer.distributed=true"
            )
        if self.attention == "te" and not self.fused_rope:
            raise ValueError(
                "rl.attention=te needs rl.fused_rope=true: both read on the device where sequences lie, other rotations on the"
                " host"
            )
        if self.load_optimizer and self.load is None:
            raise ValueError("rl.load_optimizer=true needs rl.load=<checkpoint folder>")
        low, high = self.min_pass_rate, self.max_pass_rate
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"rl.min_pass_rate={low:g} is not below rl.max_pass_rate={high:g}, so no prompt is between them"
            )
        return self


class Replay(Section):
    """stage=replay: a step's update made again."""

    step: int | None = Field(None, ge=1)
    """The step; none: the newest that can be replayed."""
    generate: bool = False
    """Also sample the responses again and compare them with those that are kept. The update is made from the kept ones."""
