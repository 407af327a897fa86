"""Modules with the parameter names, forms and checkpoints of Transformer Engine's, in torch: it cannot be installed without
CUDA. Upstream's own function makes the layer spec of them."""

from megatron_patches.model import specs
from megatron_patches.model.norm import RMSNorm

import torch  # isort: skip
from megatron.core.models.gpt import gpt_layer_specs  # isort: skip
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear  # isort: skip
from megatron.core.transformer.dot_product_attention import DotProductAttention  # isort: skip
from megatron.core.transformer.mlp import MLPSubmodules  # isort: skip
from megatron.core.transformer.moe.experts import SequentialMLP, TEGroupedMLP  # isort: skip
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # isort: skip


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


class GroupedLinear(torch.nn.Module):
    """As te.pytorch.GroupedLinear in Megatron's wrapper: `weight0`, `weight1`, ..., in checkpoints as if each expert had a
    module, and an extra state for each."""

    cut: int
    """The dimension that tensor-parallel ranks share."""

    def __init__(self, num_gemms, input_size, output_size, *, config, init_method, pg_collection, **options):
        super().__init__()
        self.count, self.groups = num_gemms, pg_collection
        form = [output_size, input_size]
        form[self.cut] //= pg_collection.expt_tp.size()
        for number in range(num_gemms):
            weight = torch.nn.Parameter(torch.empty(form, dtype=config.params_dtype))
            init_method(weight)
            weight.allreduce = config.expert_model_parallel_size == 1
            self.register_parameter(f"weight{number}", weight)

    def forward(self, x, tokens):
        parts = x.split(tokens)
        return torch.cat([part @ getattr(self, f"weight{n}").t() for n, part in enumerate(parts)]), None

    def sharded_state_dict(self, prefix="", sharded_offsets=(), metadata=None):
        found = {}
        first, total = self.groups.ep.rank() * self.count, self.groups.ep.size() * self.count
        for number in range(self.count):
            own = {"weight": getattr(self, f"weight{number}"), "_extra_state": torch.empty(0, dtype=torch.uint8)}
            where = (*sharded_offsets, (len(sharded_offsets), first + number, total))
            made = make_sharded_tensors_for_checkpoint(
                own, prefix, {"weight": self.cut}, where,
                tp_group=self.groups.expt_tp, dp_cp_group=metadata["dp_cp_group"],
            )  # fmt: skip
            found[f"{prefix}weight{number}"] = made[f"{prefix}weight"]
            found[f"{prefix}_extra_state{number or ''}"] = made[f"{prefix}_extra_state"]
        for entry in found.values():
            entry.replica_id = (*entry.replica_id[:2], self.groups.expt_dp.rank())
        return found


class ColumnGroupedLinear(GroupedLinear):
    cut = 0


class RowGroupedLinear(GroupedLinear):
    cut = 1


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
        if moe_use_grouped_gemm:
            return TEGroupedMLP, MLPSubmodules(linear_fc1=ColumnGroupedLinear, linear_fc2=RowGroupedLinear)
        return SequentialMLP, MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)

    def activation_func(self):
        return None


def install() -> None:
    """Makes `model.backend=te` build these modules in this process."""
    gpt_layer_specs.TESpecProvider = Provider
    specs.unusable = lambda: None
