"""Modules with the parameter names, forms and checkpoints of Transformer Engine's, in torch: it cannot be installed without
CUDA. Upstream's own function makes the layer spec of them."""

from megatron_patches.model import specs
from megatron_patches.model.norm import RMSNorm

import torch  # isort: skip
from megatron.core.models.gpt import gpt_layer_specs  # isort: skip
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear  # isort: skip
from megatron.core.transformer.dot_product_attention import DotProductAttention  # isort: skip
from megatron.core.transformer.mlp import MLPSubmodules  # isort: skip
from megatron.core.transformer.moe.experts import SequentialMLP  # isort: skip


class Norm(RMSNorm):
    """As te.pytorch.RMSNorm: a strict load demands its extra state."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state) -> None:
        pass


class LayerNormColumnParallelLinear(ColumnParallelLinear):
    """The norm inside the linear layer, as `layer_norm_weight`."""

    def __init__(self, input_size, output_size, *, config, **options):
        super().__init__(input_size, output_size, config=config, **options)
        self.eps = config.layernorm_epsilon
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size, dtype=config.params_dtype))
        self.layer_norm_weight.sequence_parallel = config.sequence_parallel

    def forward(self, x, *args, **options):
        x = torch.nn.functional.rms_norm(x, (x.shape[-1],), self.layer_norm_weight, self.eps)
        return super().forward(x, *args, **options)


class Provider:
    """What megatron-core asks TESpecProvider for."""

    def column_parallel_linear(self):
        return ColumnParallelLinear

    def row_parallel_linear(self):
        return RowParallelLinear

    def fuse_layernorm_and_linear(self):
        return True

    def column_parallel_layer_norm_linear(self):
        return LayerNormColumnParallelLinear

    def layer_norm(self, rms_norm=False, for_qk=False):
        return Norm

    def core_attention(self):
        return DotProductAttention

    def grouped_mlp_modules(self, moe_use_grouped_gemm, moe_use_legacy_grouped_gemm):
        return SequentialMLP, MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)

    def activation_func(self):
        return None


def install() -> None:
    """Makes `model.backend=te` build these modules in this process."""
    gpt_layer_specs.TESpecProvider = Provider
    specs.unusable = lambda: None
