"""What a rehearsal puts in the place of devices and other ranks, each with its reason. For a process by itself: nothing is
put back."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore, _create_fake_pg

from megatron_patches import parallel
from megatron_patches.model.attention import HALF
from megatron_patches.rehearsal.device import NAME, RehearsedDevice, aten
from megatron_patches.rehearsal.ledger import Ledger
from megatron_patches.training import optimizer
from pipeline.settings import Model

BACKEND = "rehearsal"


def device() -> None:
    """The device of this rank is the imagined one."""
    parallel.device = lambda: torch.device(NAME)


def world(rank: int, size: int, ledger: Ledger) -> None:
    """Joins a world in which all other ranks are imagined."""
    dist.Backend.register_backend(BACKEND, _create_fake_pg, extended_api=True, devices=["cpu", NAME])
    dist.init_process_group(BACKEND, store=FakeStore(), rank=rank, world_size=size)
    new_group = dist.new_group

    def imagined(*args: Any, **options: Any) -> Any:
        options.pop("pg_options", None)
        group = new_group(*args, **(options | {"backend": BACKEND}))
        if options.get("backend") == "gloo" and isinstance(group, dist.ProcessGroup):
            ledger.host_groups.add(group.group_name)
        return group

    dist.new_group = torch.distributed.new_group = imagined
    dist.all_gather_object = torch.distributed.all_gather_object = _everyone_agrees  # type: ignore[assignment]
    dist.broadcast_object_list = torch.distributed.broadcast_object_list = lambda *args, **options: None


def _everyone_agrees(found: list, mine: Any, group: Any = None) -> None:
    found[:] = [mine] * len(found)


def attention_of(on_gpu: bool) -> Callable[..., torch.Tensor]:
    """torch's scaled_dot_product_attention by the kernel that the device would choose; on `meta` torch makes all scores."""

    def sdpa(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        causal = attn_mask is None  # every call without a mask is causal here
        if not on_gpu:
            if not causal and attn_mask.dtype != q.dtype:  # torch makes a mask of numbers from a bool mask
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype)
            kernel = aten._scaled_dot_product_flash_attention_for_cpu
            return kernel(q, k, v, 0.0, causal, attn_mask=attn_mask, scale=scale)[0]
        if causal and q.dtype in HALF:
            return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False, scale=scale)[0]
        # The kernel for fp32, and the one that takes a mask, want a key for each query head and a mask for each head.
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        if not causal:
            attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
        kernel = aten._scaled_dot_product_efficient_attention
        return kernel(q, k, v, attn_mask, True, 0.0, causal, scale=scale)[0]

    return sdpa


def kernels(ledger: Ledger, on_gpu: bool) -> None:
    """The kernels that the device would choose: on `meta` torch falls back to compositions of small operators."""
    from megatron.core.optimizer import clip_grads
    from torch.nn import functional

    from megatron_patches.model import attention, norm

    def lower_right(*sizes: int) -> torch.Tensor | None:
        """The causal mask under context parallelism, which a CPU makes and a GPU does not. torch has a tensor class for it that
        cannot be made while tensors are counted."""
        return None if on_gpu else torch.ones(sizes, dtype=torch.bool, device=NAME).tril()

    def rms_norm(self, x: torch.Tensor) -> torch.Tensor:
        return _FusedNorm.apply(x, self.weight)

    class Functions:
        """torch.nn.functional with another attention."""

        scaled_dot_product_attention = staticmethod(attention_of(on_gpu))

        def __getattr__(self, name: str) -> Any:
            return getattr(functional, name)

    attention.F = Functions()  # type: ignore[assignment]
    attention.causal_lower_right = lower_right  # type: ignore[assignment]
    if on_gpu:
        norm.RMSNorm.forward = rms_norm  # type: ignore[method-assign]

    def l2_norm(chunk_size, overflow, lists, per_tensor, *_):
        # megatron-core 0.16.1, utils.py:1206 makes a tensor of device tensors: one wait for each, below any mode's sight.
        norms = [torch.norm(tensor) for tensors in lists for tensor in tensors]
        ledger.wait("a number is read", len(norms))
        return torch.stack(norms).norm().reshape(1), None

    clip_grads.l2_norm_impl = l2_norm


class _FusedNorm(torch.autograd.Function):
    """What torch's fused RMSNorm on CUDA reads, writes and keeps: one kernel each way."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, weight, _ = ctx.saved_tensors
        return grad * x, torch.empty_like(weight)


def modules() -> None:
    """Moving a module swaps its fake parameters, which their weak references forbid; these are put in place instead."""
    torch.nn.Module._apply = _apply  # type: ignore[assignment]


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    for module in self.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            with torch.no_grad():
                applied = fn(parameter)
            if applied is not parameter:
                new = torch.nn.Parameter(applied.detach(), requires_grad=parameter.requires_grad)
                new.__dict__.update({k: v for k, v in parameter.__dict__.items() if k not in new.__dict__})
                module._parameters[name] = new
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def pipeline_shapes(shape: list[int]) -> None:
    """Stages tell each other the shapes of what they send; all micro-batches of a rehearsal have one."""
    from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

    def shapes(self, tensor_send_next, tensor_send_prev, recv_prev, recv_next):
        return (shape if recv_prev else [0, 0, 0]), (shape if recv_next else [0, 0, 0])

    P2PCommunicator._communicate_shapes = shapes


def even_experts(model: Model) -> None:
    """The router's choices have no numbers: every expert gets an equal share, on every rank alike."""
    from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

    preprocess = MoEAlltoAllTokenDispatcher.preprocess

    def with_counts(self, routing_map: torch.Tensor) -> torch.Tensor:
        counts = preprocess(self, routing_map)
        share, rest = divmod(routing_map.shape[0] * model.experts.per_token, model.experts.count)
        sent = torch.tensor([share + (i < rest) for i in range(model.experts.count)])
        mine = sent[self.local_expert_indices[0] : self.local_expert_indices[-1] + 1]
        copies = self.tp_size * self.ep_size
        known = {
            "input_splits": sent.view(self.ep_size, -1).sum(1),
            "output_splits": mine.sum().expand(self.ep_size).clone(),
            "output_splits_tp": (mine.sum() * self.ep_size).expand(self.tp_size).clone(),
            "num_global_tokens_per_local_expert": mine.expand(copies, -1).clone(),
        }
        for name, values in known.items():
            if isinstance(getattr(self, name, None), torch.Tensor):
                getattr(self, name).host_values = values
        counts.host_values = mine * copies
        return counts

    MoEAlltoAllTokenDispatcher.preprocess = with_counts


def host_moments(device: RehearsedDevice) -> None:
    """Adam's moments on the host (`rl.optimizer.cpu_offload`) are gigabytes, so they are fake there as well."""

    def zeros(like: torch.Tensor) -> torch.Tensor:
        real, device.host_is_real = device.host_is_real, False
        try:
            return torch.zeros(like.shape, dtype=torch.float32)
        finally:
            device.host_is_real = real

    optimizer.host_zeros = zeros


def bucket_holders(model: Model) -> None:
    """At a sync the ranks tell each other which parameters they hold: those of other stages are this stage's, renumbered."""
    from megatron.core import parallel_state

    from megatron_patches.model.policy_model import padded_vocab
    from megatron_patches.model.weights.mapping import entries

    stages = parallel_state.get_pipeline_model_parallel_world_size()
    chunks = stages * (parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1)
    expert_ranks = parallel_state.get_expert_model_parallel_world_size()
    tp = parallel_state.get_tensor_model_parallel_world_size()
    vocab = (padded_vocab(model.vocab_size, tp) // tp, model.hidden_size)

    def all_gather(found: list, mine: Any, group: Any = None) -> None:
        found[:] = [mine] * len(found)
        if group is None and isinstance(mine, dict):
            found[0] = {entry.name: _holder(entry.name, mine) for entry in entries(model)}

    def _holder(name: str, mine: dict[str, tuple]) -> tuple:
        if not name.startswith("decoder.layers."):
            stage = 0 if name.startswith("embedding") else stages - 1
            return stage, None, vocab if "weight" in name and "norm" not in name else (model.hidden_size,)
        layer, kind = int(name.split(".")[2]), name.split(".", 3)[3]
        expert_rank = None
        if "local_experts" in kind:
            parts = kind.split(".")
            at = parts.index("local_experts") + 1
            expert_rank = int(parts[at]) // (model.experts.count // expert_ranks)
        return layer * chunks // model.num_layers % stages, expert_rank, _shape(kind, mine)

    def _shape(kind: str, mine: dict[str, tuple]) -> tuple:
        wanted = _without_numbers(kind)
        return next(where[2] for name, where in mine.items() if _without_numbers(name).endswith("." + wanted))

    dist.all_gather_object = torch.distributed.all_gather_object = all_gather  # type: ignore[assignment]


def _without_numbers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())
