"""What the model is: its shape, its weights on disk, and how it is laid out over devices."""

from typing import Literal

from pydantic import Field

from pipeline.settings.base import Section


class Rope(Section):
    """Rotary position embedding, in the field's (Hugging Face) terms."""

    theta: float = 10_000.0
    """Base of the geometric series of wavelengths."""
    scaling: Literal["none", "llama3"] = "none"
    """`llama3` stretches the low frequencies as Llama 3.1 does; the four numbers below belong to it."""
    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


class Experts(Section):
    """Mixture of experts; `count = 0` means a dense MLP."""

    count: int = Field(0, ge=0)
    """Routed experts in each layer."""
    per_token: int = Field(8, ge=1)
    """Experts that each token visits (top-k)."""
    ffn_hidden_size: int = Field(768, ge=1)
    """Width of one expert's MLP."""
    normalize_top_k: bool = True
    """Renormalise the chosen experts' probabilities to sum to one."""
    aux_loss_coef: float = Field(0.0, ge=0)
    """Weight of the load-balancing loss; 0 in RL, where it would fight the policy gradient."""


class Layout(Section):
    """How one copy of the model is cut over devices."""

    tp: int = Field(1, ge=1)
    """Tensor parallel size; keep it within a node."""
    pp: int = Field(1, ge=1)
    """Pipeline parallel size."""
    vpp: int | None = Field(None, ge=2)
    """Virtual pipeline stages (model chunks) for each pipeline rank; none means no interleaving."""
    cp: int = Field(1, ge=1)
    """Context parallel size: sequences are cut zig-zag over these ranks."""
    ep: int = Field(1, ge=1)
    """Expert parallel size (MoE only)."""
    sp: bool = False
    """Sequence parallel: norms and dropouts hold 1/tp of the sequence; needs tp > 1."""
    micro_batch_tokens: int = Field(8192, ge=1)
    """Most tokens (padding included) in one micro-batch of the actor."""
    rollout_tp: int | None = Field(None, ge=1)
    """Tensor parallel size of the vLLM rollout engine; none means that of the actor."""


class Model(Section):
    """A model preset: `configs/model/<name>.yaml`."""

    family: Literal["qwen2", "qwen3", "llama", "qwen3_moe"]
    """Architecture; decides biases, q/k norms and the weight mapping."""
    path: str | None = None
    """Hugging Face folder with config.json, safetensors and tokenizer. None: random weights (the tiny preset)."""
    ignore_keys: list[str] = []
    """Keys of the folder's config.json that this project does not know and that you know change nothing; any other unknown
    key is refused."""
    published_as: str | None = None
    """Name under which the weights are published, for the person who has to download them."""
    num_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    ffn_hidden_size: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_query_groups: int = Field(ge=1)
    """Key/value heads (grouped-query attention)."""
    head_dim: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    """Rows of the embedding as published; the tiny preset takes the trained tokenizer's size up to this."""
    max_position_embeddings: int = Field(ge=1)
    rope: Rope = Rope()
    norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: Experts = Experts()
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of randomly initialised weights."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Parameter and activation type of the actor; the optimizer always keeps fp32 masters."""
    parameters: int = Field(ge=1)
    """Published parameter count; the shape above must give exactly this."""
    layouts: dict[int, Layout] = {1: Layout()}
    """Layout by number of nodes; the largest key not above `cluster.nnodes` is taken."""
