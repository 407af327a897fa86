"""The layers of the model: Megatron's local modules or Transformer Engine's, with this project's core attention in both.

Transformer Engine puts a norm into the linear layer that follows it, so parameters have other names there; `canonical` in
weights/mapping.py gives them the local ones. Checkpoints have one form for both (`checkpoint_state`).
"""

from typing import Literal

from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from megatron_patches import parallel
from megatron_patches.model.attention import SdpaCoreAttention
from megatron_patches.model.grouped_experts import GroupedExperts
from megatron_patches.model.norm import RMSNorm
from pipeline.settings import Model
from pipeline.settings.levers import BACKEND, check_transformer_engine

Backend = Literal["te", "local"]


def unusable() -> str | None:
    """Why Transformer Engine's layers cannot be built in this process; None if they can."""
    if parallel.device().type != "cuda":
        return "there is no GPU"
    return None if gpt_layer_specs.HAVE_TE else "it cannot be imported"


def chosen(model: Model) -> Backend:
    """What `model.backend` means here; auto: te where it can be used. Raises UsageError if te is asked for and cannot."""
    why_not = unusable()
    check_transformer_engine([BACKEND] * (model.backend == "te"), model, why_not)
    return "local" if model.backend == "local" or why_not is not None else "te"


def block_spec(
    config: TransformerConfig,
    backend: Backend,
    vp_stage: int | None = None,
    attention: Literal["torch", "te"] = "torch",
) -> TransformerBlockSubmodules:
    """The layers of this rank's chunk: upstream's spec with our core attention (unless `attention` is te), and with our norm
    where it is local."""
    layer = _te_layer(config) if backend == "te" else _local_layer(config)
    if attention == "torch":
        layer.submodules.self_attention.submodules.core_attention = SdpaCoreAttention
    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    norm = gpt_layer_specs.TESpecProvider().layer_norm() if backend == "te" else RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=norm)


def _te_layer(config: TransformerConfig) -> ModuleSpec:
    return gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts,
        qk_layernorm=config.qk_layernorm,
        moe_grouped_gemm=config.moe_grouped_gemm,
    )


def _local_layer(config: TransformerConfig) -> ModuleSpec:
    layer = gpt_layer_specs.get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts, qk_layernorm=config.qk_layernorm, normalization="RMSNorm"
    )
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    if config.num_moe_experts:
        # Upstream names this norm in checkpoints as if it were inside a dense MLP (gpt_layer_specs.py:419); Transformer
        # Engine's layer, where it is a module by itself, would not find it.
        del layer.submodules.sharded_state_dict_keys_map["pre_mlp_layernorm."]
        if config.moe_grouped_gemm:
            layer.submodules.mlp.submodules.experts.module = GroupedExperts
    if config.qk_layernorm:
        attention = layer.submodules.self_attention.submodules
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return layer
