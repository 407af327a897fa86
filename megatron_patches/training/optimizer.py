"""Adam for machines that have neither transformer-engine nor apex (patch `adam`), and the optimizer of the actor."""

from collections.abc import Iterator

import torch
from megatron.core import optimizer as upstream
from megatron.core.optimizer import OptimizerConfig, distrib_optimizer, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_patches.model import levers
from pipeline.settings import Optimizer

PART_NUMBERS = 2**26
"""Parameters that one pass of Adam updates: 256 MiB for each temporary, where all at once would copy the second moments."""
LARGEST_NORM = 1e16
"""A rank's gradient above this makes the square of the whole norm overflow fp32, after which clipping erases the gradient."""


class FusedLikeAdam(torch.optim.Optimizer):
    """AdamW with fp32 moments that keeps its step count in the parameter group, where apex and transformer-engine keep it.

    Megatron-core 0.16.1 (optimizer/distrib_optimizer.py:647-690, 827) special-cases torch's own AdamW, whose step is a
    tensor for each parameter: loading a checkpoint then shares one step tensor among all of them.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True, **_unused):
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "bias_correction": True}
        super().__init__(params, defaults)
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None, "Megatron computes gradients itself"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not group["params"]:
                continue
            group["step"] = group.get("step", 0) + 1
            if not params:
                continue
            for part in _parts(params):  # the update needs temporaries of the part's size
                self._update(group, part)

    def _update(self, group: dict, params: list[torch.Tensor]) -> None:
        beta1, beta2 = group["betas"]
        lr, decay, step = group["lr"], group["weight_decay"], group["step"]
        first, second = self._moments(params)
        grads = [p.grad.float() for p in params if p.grad is not None]
        if decay and self.adam_w_mode:
            torch._foreach_mul_(params, 1 - lr * decay)
        elif decay:
            grads = list(torch._foreach_add(grads, params, alpha=decay))
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        denominator = torch._foreach_div(second, 1 - beta2**step)
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(params, first, denominator, -lr / (1 - beta1**step))
        self._keep(params, first, second)

    def start(self, params: list[torch.Tensor]) -> None:
        """Zero moments for those that have none."""
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"], self.state[p]["exp_avg_sq"] = self._zeros(p), self._zeros(p)

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        """A new moment."""
        return torch.zeros_like(like, dtype=torch.float32)

    def _moments(self, params: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Both moments of each, where the update changes them."""
        self.start(params)
        return [self.state[p]["exp_avg"] for p in params], [self.state[p]["exp_avg_sq"] for p in params]

    def _keep(self, params: list[torch.Tensor], first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
        """Puts the changed moments where they stay."""


class HostMomentsAdam(FusedLikeAdam):
    """FusedLikeAdam whose moments stay in host memory (`rl.optimizer.cpu_offload`).

    Each part's moments come to the device, are updated there, and go back: 16 bytes a parameter over the bus in each step, and
    on the device two copies of one part. Megatron-core's own offload (0.16.1, optimizer/cpu_offloading/hybrid_optimizer.py)
    runs Adam on the host's processors instead, and needs CUDA to be built at all.
    """

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return host_zeros(like)

    def _moments(self, params: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        first, second = super()._moments(params)
        return [x.to(p.device, copy=True) for x, p in zip(first, params, strict=True)], [
            x.to(p.device, copy=True) for x, p in zip(second, params, strict=True)
        ]

    def _keep(self, params: list[torch.Tensor], first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
        for p, m, v in zip(params, first, second, strict=True):
            self.state[p]["exp_avg"].copy_(m)
            self.state[p]["exp_avg_sq"].copy_(v)


def host_zeros(like: torch.Tensor) -> torch.Tensor:
    """fp32 zeros of the same shape in host memory, pinned if `like` is on a GPU."""
    return torch.zeros(like.shape, dtype=torch.float32, device="cpu", pin_memory=like.device.type == "cuda")


def _parts(params: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """`params` in order, cut so that each part holds at most PART_NUMBERS numbers, or one tensor."""
    parts: list[list[torch.Tensor]] = []
    held = 0
    for p in params:
        if not parts or held + p.numel() > PART_NUMBERS:
            parts.append([])
            held = 0
        parts[-1].append(p)
        held += p.numel()
    return parts


FOUND = None if upstream.USING_PYTORCH_OPTIMIZER else upstream.Adam
"""The Adam of transformer-engine or apex, if Megatron found one."""


def install_adam(cpu_offload: bool = False) -> None:
    """Makes Megatron build `FusedLikeAdam` where it would have fallen back to torch's AdamW, or the one whose moments stay on
    the host."""
    chosen = HostMomentsAdam if cpu_offload else FOUND or FusedLikeAdam
    upstream.Adam = distrib_optimizer.Adam = chosen
    if FOUND is None:
        upstream.USING_PYTORCH_OPTIMIZER = False
        distrib_optimizer.HAVE_APEX_OR_TE = True
        distrib_optimizer.USING_APEX_OPTIMIZER = True


def start_states(optimizer: FusedLikeAdam, _config: OptimizerConfig | None = None) -> None:
    """Zero moments for all parameters, in the place of Megatron's hook, which makes them on the device."""
    for group in optimizer.param_groups:
        optimizer.start(group["params"])


def build_optimizer(chunks: list, settings: Optimizer, params_dtype: torch.dtype):
    """The Megatron optimizer over `chunks` (DDP-wrapped model chunks of this rank)."""
    install_adam(settings.cpu_offload)
    built = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=settings.min_lr,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.eps,
            weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad,
            use_distributed_optimizer=settings.distributed,
            params_dtype=params_dtype,
            bf16=params_dtype == torch.bfloat16,
            **levers.of_optimizer(settings),
        ),
        chunks,
    )
    if settings.cpu_offload:
        for inner in built.chained_optimizers:
            inner.init_state_fn = start_states
    return built


def gradients_are_usable(chunks: list) -> bool:
    """Whether the gradient buffers of this rank's DDP chunks are finite, in one pass over them.

    With the distributed optimizer a buffer holds this rank's reduced shard and its own parts of the others', so a number
    that is not finite is seen where it came from and where it was reduced to.
    """
    for buffer in buffers_of(chunks):
        norm = torch.linalg.vector_norm(buffer.grad_data, dtype=torch.float32)
        if not bool(norm < LARGEST_NORM):  # NaN is below nothing
            return False
    return True


def buffers_of(chunks: list) -> Iterator:
    """The buffers of weights and gradients of this rank's DDP chunks."""
    for chunk in chunks:
        yield from chunk.buffers
        yield from chunk.expert_parallel_buffers


def tensors_of(optimizer) -> Iterator[torch.Tensor]:
    """What the optimizer keeps for this rank's shares of the weights: fp32 masters and moments, on device and host. Of an fp32
    model the masters are views of the weights."""
    for inner in optimizer.chained_optimizers:
        if inner.optimizer is None:
            continue
        for group in inner.optimizer.param_groups:
            yield from group["params"]
        for state in inner.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def named_gradients(chunks: list) -> Iterator[tuple[str, torch.Tensor]]:
    """The gradients of this rank's DDP chunks by the names of their weights."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if getattr(parameter, "main_grad", None) is not None:
                yield f"the gradient of {name.removeprefix('module.').removeprefix('module.')}", parameter.main_grad


def build_scheduler(optimizer, settings: Optimizer, total_steps: int) -> OptimizerParamScheduler:
    """Linear warm-up, then the chosen decay to `min_lr`; counted in optimizer steps.

    The warm-up is as long as its setting, also where the run ends within it: a run that is extended later must not have
    started with another rate.
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=settings.lr / (settings.warmup_steps + 1) if settings.warmup_steps else settings.lr,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=settings.warmup_steps,
        lr_decay_steps=max(total_steps, settings.warmup_steps + 1),  # Megatron asks that the decay ends later
        lr_decay_style=settings.decay,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
