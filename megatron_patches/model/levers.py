"""Megatron's levers of memory and time: which fields of its configs the settings set. docs/levers.md says what each costs."""

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.transformer.enums import AttnBackend

from pipeline.common.errors import UsageError
from pipeline.settings import Model, Optimizer, Rl
from pipeline.settings.levers import check_transformer_engine, of_transformer_engine, recomputed_modules


def of_layers(model: Model, rl: Rl) -> dict[str, Any]:
    """Fields of `TransformerConfig`."""
    options: dict[str, Any] = {
        "bias_activation_fusion": rl.fused_swiglu,
        "moe_grouped_gemm": rl.grouped_experts,
        "gradient_accumulation_fusion": rl.fused_grad_accumulation,
        "apply_rope_fusion": rl.fused_rope,
    }
    if rl.attention == "te":
        options["attention_backend"] = AttnBackend.auto
    if rl.fp8 != "none":
        # Weights stay bf16, and only recipes without a history of scales are offered: there is nothing to save.
        options |= {"fp8": "hybrid" if rl.fp8 == "tensorwise" else "e4m3", "fp8_recipe": rl.fp8}
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


CAPABILITY = {"tensorwise": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}
"""The first compute capability of NVIDIA's devices that has the recipe's products."""


def check(model: Model, rl: Rl, why_not: str | None) -> None:
    """Raises UsageError for a lever that this process cannot pull. `why_not`: why Transformer Engine cannot be, or None."""
    check_transformer_engine(of_transformer_engine(rl), model, why_not)
    if rl.fp8 != "none" and (found := torch.cuda.get_device_capability()) < CAPABILITY[rl.fp8]:
        need, have = (".".join(map(str, version)) for version in (CAPABILITY[rl.fp8], found))
        raise UsageError(f"rl.fp8={rl.fp8} needs a device of compute capability {need}; this one has {have}.")


def of_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Fields of `OptimizerConfig`."""
    if not optimizer.precision_aware:
        return {}
    moments = torch.bfloat16 if optimizer.moments == "bf16" else torch.float32
    return {
        "use_precision_aware_optimizer": True,
        "store_param_remainders": True,
        "exp_avg_dtype": moments,
        "exp_avg_sq_dtype": moments,
    }


def of_gradients(rl: Rl) -> DistributedDataParallelConfig:
    """How gradients are summed, and weights gathered, over data-parallel ranks. Sums are always fp32."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=rl.optimizer.distributed,
        overlap_grad_reduce=rl.overlap_grad_reduce,
        overlap_param_gather=rl.overlap_param_gather,
    )
