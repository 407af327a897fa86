"""What the model is: its shape, its weights on disk, and how it is split over devices."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.base import Section


class Rope(Section):
    """Rotary position embedding, in the field's (Hugging Face) terms."""

    theta: float = 10_000.0
    """Base of the geometric series of wavelengths."""
    scaling: Literal["none", "llama3"] = "none"
    """`llama3` stretches the low frequencies as Llama 3.1 does; the four numbers below belong to it."""
    factor: float = 8.0
    """llama3: how far low frequencies are stretched."""
    low_freq_factor: float = 1.0
    """llama3: frequencies with fewer turns than this in the original context are stretched in full."""
    high_freq_factor: float = 4.0
    """llama3: frequencies with more turns than this in the original context stay as they are."""
    original_max_position_embeddings: int = 8192
    """llama3: context length in tokens before stretching."""


class Experts(Section):
    """Mixture of experts; `count = 0` means a dense MLP."""

    count: int = Field(0, ge=0)
    """Routed experts in each layer."""
    per_token: int = Field(8, ge=1)
    """Experts that each token visits (top-k)."""
    ffn_hidden_size: int = Field(768, ge=1)
    """Width of one expert's MLP."""
    normalize_top_k: bool = True
    """Renormalize the chosen experts' probabilities to sum to one."""
    aux_loss_coef: float = Field(0.0, ge=0)
    """Weight of the load-balancing loss; 0 in RL, where it would fight the policy gradient."""


class Layout(Section):
    """How one copy of the model is split over devices."""

    tp: int = Field(1, ge=1)
    """Tensor parallel size; keep it within a node."""
    pp: int = Field(1, ge=1)
    """Pipeline parallel size."""
    vpp: int | None = Field(None, ge=2)
    """Virtual pipeline stages (model chunks) of each pipeline rank; none: no interleaving."""
    cp: int = Field(1, ge=1)
    """Context parallel size: sequences are split over these ranks in zig-zag order."""
    ep: int = Field(1, ge=1)
    """Expert parallel size (MoE only)."""
    sp: bool = False
    """Sequence parallel: norms and dropouts hold 1/tp of the sequence; needs tp > 1."""
    micro_batch_tokens: int = Field(8192, ge=1)
    """Most tokens (padding included) in one micro-batch of the actor."""
    rollout_tp: int | None = Field(None, ge=1)
    """Tensor parallel size of the vLLM rollout engine; none: the actor's."""

    @property
    def engine_tp(self) -> int:
        """Ranks of one vLLM engine."""
        return self.rollout_tp or self.tp


class Model(Section):
    """A model preset: `configs/model/<name>.yaml`."""

    family: Literal["qwen2", "qwen3", "llama", "qwen3_moe"]
    """Architecture: decides which weights exist and what they are called."""
    path: str | None = None
    """Hugging Face folder with config.json, safetensors and tokenizer. None: random weights (the tiny preset)."""
    ignore_keys: list[str] = []
    """Keys of the folder's config.json that this project does not know and that you know change nothing; any other unknown
    key is refused."""
    published_as: str | None = None
    """Name under which the weights are published, for the person who has to download them."""
    num_layers: int = Field(ge=1)
    """Transformer layers."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    ffn_hidden_size: int = Field(ge=1)
    """Width of the dense MLP."""
    num_attention_heads: int = Field(ge=1)
    """Query heads."""
    num_query_groups: int = Field(ge=1)
    """Key/value heads (grouped-query attention)."""
    head_dim: int = Field(ge=1)
    """Width of one attention head."""
    vocab_size: int = Field(ge=1)
    """Rows of the embedding as published; the tiny preset uses the trained tokenizer's size, up to this."""
    max_position_embeddings: int = Field(ge=1)
    """Longest context in tokens."""
    rope: Rope = Rope()
    """Rotary position embedding."""
    norm_eps: float = 1e-6
    """Epsilon of every RMSNorm."""
    tie_word_embeddings: bool = False
    """Embedding and output weight are one matrix."""
    qkv_bias: bool = False
    """Biases on q, k and v (Qwen2)."""
    qk_norm: bool = False
    """Norms on q and k (Qwen3)."""
    experts: Experts = Experts()
    """Mixture of experts."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of randomly initialized weights."""
    backend: Literal["auto", "te", "local"] = "auto"
    """What the layers are made of. te: Transformer Engine's linear layers and norms; local: Megatron's own with torch's
    kernels; auto: te on GPUs where it is installed."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Parameter and activation type of the actor; the optimizer always keeps fp32 masters."""
    parameters: int | None = Field(None, ge=1)
    """Published parameter count; if given, the shape above must have exactly as many."""
    layouts: dict[int, Layout] = {1: Layout()}
    """Layout by number of nodes; the largest key not above `cluster.nnodes` is used."""

    @model_validator(mode="after")
    def _check(self) -> "Model":
        if (self.family == "qwen3_moe") != (self.experts.count > 0):
            raise ValueError(
                f"model.family={self.family} with model.experts.count={self.experts.count}: qwen3_moe needs experts, and"
                " the other families have none"
            )
        return self
