"""Megatron's levers of memory and time: which fields of its configs the settings set. docs/levers.md says what each costs."""

from typing import Any

from megatron.core.distributed import DistributedDataParallelConfig

from pipeline.settings import Model, Rl
from pipeline.settings.levers import recomputed_modules


def of_layers(model: Model, rl: Rl) -> dict[str, Any]:
    """Fields of `TransformerConfig`."""
    options: dict[str, Any] = {"bias_activation_fusion": rl.fused_swiglu, "moe_grouped_gemm": rl.grouped_experts}
    if rl.recompute == "selective":
        options |= {
            "recompute_granularity": "selective",
            "recompute_modules": recomputed_modules(model, rl.recompute_modules),
        }
    elif rl.recompute == "full":
        options |= {
            "recompute_granularity": "full",
            "recompute_method": rl.recompute_method,
            "recompute_num_layers": rl.recompute_layers,
        }
    return options


def of_gradients(rl: Rl) -> DistributedDataParallelConfig:
    """How gradients are summed, and weights gathered, over data-parallel ranks. Sums are always fp32."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=rl.optimizer.distributed,
        overlap_grad_reduce=rl.overlap_grad_reduce,
        overlap_param_gather=rl.overlap_param_gather,
    )
