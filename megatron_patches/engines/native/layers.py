"""The weights and norms of the model's layers, looked up once for all decode steps.

Reading an attribute of a module takes a microsecond, and a step of a small model reads about fifty of them per layer.
"""

from dataclasses import dataclass
from typing import Any

import torch


class Norm:
    """The RMSNorm of a module, for x [T, h]."""

    def __init__(self, module: Any):
        self.module = module
        self.weight: torch.Tensor = module.weight
        self.plain = self.weight.dtype == torch.float32 and not self.weight.is_cuda
        if self.plain:
            self.eps = torch.tensor(module.eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises x [T, h]. For fp32 on a CPU it runs five small kernels; torch's own norm runs eight."""
        if not self.plain:
            return self.module(x)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, length, length, value=1.0 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(self.weight)


class NormInside:
    """The RMSNorm that one of Transformer Engine's linear layers holds."""

    def __init__(self, linear: Any):
        self.weight, self.eps = linear.layer_norm_weight, linear.eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def norm_before(linear: Any, module: Any) -> Norm:
    """The norm in front of `linear`: inside of it, or `module`."""
    return Norm(NormInside(linear) if hasattr(linear, "layer_norm_weight") else module)


@dataclass(frozen=True)
class Layer:
    """The parameters of one transformer layer; weights are [out, in] as in the module."""

    input_norm: Norm
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: Any
    """The module for query heads [T, g, n/g, d], or None."""
    k_norm: Any
    proj: torch.Tensor
    mlp_norm: Norm
    experts: Any
    """The module of the MoE layer, or None; then `fc1` and `fc2` are set."""
    fc1: torch.Tensor | None
    """Gate, then up: [2f, h]."""
    fc2: torch.Tensor | None

    @classmethod
    def of(cls, module: Any) -> "Layer":
        """Reads them from Megatron's TransformerLayer."""
        attention, mlp = module.self_attention, module.mlp
        routed = hasattr(mlp, "router")
        return cls(
            input_norm=norm_before(attention.linear_qkv, module.input_layernorm),
            qkv=attention.linear_qkv.weight,
            qkv_bias=attention.linear_qkv.bias,
            q_norm=attention.q_layernorm,
            k_norm=attention.k_layernorm,
            proj=attention.linear_proj.weight,
            mlp_norm=norm_before(None if routed else mlp.linear_fc1, module.pre_mlp_layernorm),
            experts=mlp if routed else None,
            fc1=None if routed else mlp.linear_fc1.weight,
            fc2=None if routed else mlp.linear_fc2.weight,
        )
