"""The actor's model: Megatron's GPTModel whose output layer hands over to the policy head (patch `policy-head`)."""

from collections.abc import Callable
from math import lcm
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.moe import moe_utils

from megatron_patches import parallel
from megatron_patches.model import levers, specs, weight_gradients
from megatron_patches.model.dispatcher import forget_after_forward
from pipeline.settings import Layout, Model, Rl, Rope

if not hasattr(moe_utils, "te_general_gemm"):  # patch `router-gemm`
    moe_utils.te_general_gemm = None

Head = Callable[[torch.Tensor, torch.Tensor], Any]
"""(hidden [s (/tp under sequence parallel), b, h], output weight [padded vocab / tp, h]) -> what the loss function gets."""

VOCAB_MULTIPLE = 64
"""Vocabularies are padded to this times what tp still needs, so that one checkpoint fits every usual tp."""


class PolicyOutputLayer(ColumnParallelLinear):
    """The output layer, called with the head, which forms the logits that it needs.

    It stays a module with its weight, so that checkpoints, weight tying and the parameter all-gather hooks of the
    distributed optimizer work as upstream.
    """

    def forward(self, input_, weight=None, runtime_gather_output=None, head: Head | None = None):  # type: ignore[override]
        if head is None:
            return super().forward(input_, weight, runtime_gather_output)
        return head(input_, self.weight if weight is None else weight)


class PolicyModel(GPTModel):
    """GPTModel with one more keyword in `forward`: `head`.

    With a head, the last pipeline stage returns `head(hidden, output_weight)` and never forms the logits of all
    positions, as upstream does (models/gpt/gpt_model.py:685). Without one it is GPTModel.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._head: Head | None = None
        if self.post_process:
            self.output_layer.__class__ = PolicyOutputLayer

    def forward(self, *args, head: Head | None = None, **kwargs):
        self._head = head
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._head = None

    def _postprocess(self, hidden_states, *args, **kwargs):
        if self._head is None or not self.post_process:
            return super()._postprocess(hidden_states, *args, **kwargs)
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        return self.output_layer(hidden_states, weight=weight, head=self._head)


def padded_vocab(vocab_size: int, tp: int) -> int:
    """Rows of the embedding with padding; padded rows are never targets and take no probability."""
    multiple = lcm(VOCAB_MULTIPLE, tp)
    return -(-vocab_size // multiple) * multiple


def torch_dtype(model: Model) -> torch.dtype:
    return torch.bfloat16 if model.dtype == "bf16" else torch.float32


def transformer_config(model: Model, layout: Layout, rl: Rl | None = None, **overrides) -> TransformerConfig:
    """Megatron's config of `model` cut by `layout`, with the levers of `rl`; dropout off, no fusion that needs CUDA
    extensions unless a lever asks for it."""
    dtype = torch_dtype(model)
    options: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": model.norm_eps,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "add_qkv_bias": model.qkv_bias,
        "qk_layernorm": model.qk_norm,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_method_std": model.init_std,
        "use_cpu_initialization": parallel.device().type == "cpu",
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "attention_backend": AttnBackend.local,
        "persist_layer_norm": False,
        "bias_dropout_fusion": False,
        "bias_activation_fusion": False,
        "apply_rope_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp,
        "context_parallel_size": layout.cp,
        "sequence_parallel": layout.sp,
        # Micro-batches differ in length; upstream then insists on this dispatcher, for dense models too.
        "variable_seq_lengths": layout.pp > 1,
        "moe_token_dispatcher_type": "alltoall",
        # Batched p2p with interleaved stages gives silently wrong gradients over gloo; see docs/patches.md.
        "overlap_p2p_comm": layout.vpp is not None,
        "batch_p2p_comm": layout.vpp is None,
        # Upstream waits for the device after every exchange, for a race in old NCCL versions; torch has long ended it.
        "batch_p2p_sync": False,
        "calculate_per_token_loss": True,
    }
    if model.experts.count:
        options |= {
            "num_moe_experts": model.experts.count,
            "moe_router_topk": model.experts.per_token,
            "moe_ffn_hidden_size": model.experts.ffn_hidden_size,
            "moe_aux_loss_coeff": model.experts.aux_loss_coef,
            "moe_router_load_balancing_type": "aux_loss" if model.experts.aux_loss_coef else "none",
            "moe_router_pre_softmax": not model.experts.normalize_top_k,
            "expert_model_parallel_size": layout.ep,
            "expert_tensor_parallel_size": 1 if layout.ep > 1 else layout.tp,
            "moe_router_dtype": "fp32",
        }
    if rl is not None:
        options |= levers.of_layers(model, rl)
    return TransformerConfig(**(options | overrides))


def stretch_low_frequencies(embedding: RotaryEmbedding, rope: Rope) -> None:
    """Llama 3.1's scaling by all four of its numbers (patch `rope-scaling`). Does nothing if `rope.scaling` is `none`.

    Upstream's own switch (models/common/embeddings/rotary_pos_embedding.py:84) passes the factor on and leaves the other
    three at Llama 3.1's values.
    """
    if rope.scaling == "llama3":
        embedding.inv_freq = embedding._apply_scaling(
            embedding.inv_freq,
            factor=rope.factor,
            low_freq_factor=rope.low_freq_factor,
            high_freq_factor=rope.high_freq_factor,
            original_max_position_embeddings=rope.original_max_position_embeddings,
        )


def build_chunks(model: Model, layout: Layout, rl: Rl | None = None) -> list[PolicyModel]:
    """This rank's model chunks, unwrapped: one, or `layout.vpp` of them. Random weights, unless loaded afterwards. `rl` is
    that of the actor, whose levers a model that only generates or is converted does not need.

    Raises UsageError for `model.backend=te` where Transformer Engine cannot be used.
    """
    backend = specs.chosen(model)
    if rl is not None:
        levers.check(model, rl, specs.unusable())  # before Megatron's config, which says less of what is missing
    config = transformer_config(model, layout, rl)
    attention: Literal["torch", "te"] = "torch"
    if rl is not None:
        attention = rl.attention
        if rl.fused_grad_accumulation:
            weight_gradients.install()
    chunks = []
    for stage in range(layout.vpp) if layout.vpp else [None]:
        chunks.append(
            PolicyModel(
                config,
                specs.block_spec(config, backend, stage, attention),
                vocab_size=padded_vocab(model.vocab_size, layout.tp),
                max_sequence_length=model.max_position_embeddings,
                pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
                post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
                parallel_output=True,
                share_embeddings_and_output_weights=model.tie_word_embeddings,
                position_embedding_type="rope",
                rotary_base=model.rope.theta,  # type: ignore[arg-type]
                vp_stage=stage,
            )
        )
        stretch_low_frequencies(chunks[-1].rotary_pos_emb, model.rope)
        forget_after_forward(chunks[-1])
    return [chunk.to(parallel.device()) for chunk in chunks]
