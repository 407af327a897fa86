"""An estimate of the memory that one device and one node need, phase by phase. All numbers are bytes.

Allocator slack and NCCL's buffers are one constant, and MoE routing is assumed even. Activations with the policy head are
within 10% of what a rehearsal (`rehearse=true`) counts. It is meant to refuse what cannot work before a cluster is booked, not
to replace a trial run.
"""

from dataclasses import dataclass

from pipeline.run.shapes import count, on_rank
from pipeline.settings import Settings
from pipeline.settings.levers import recomputed_modules

GIB = 2**30
OVERHEAD_GIB = 2.5
"""CUDA context, NCCL buffers and allocator slack of one GPU rank."""
HEAD_LOGITS_BYTES = 640 << 20
"""Most bytes of a chunk's logits in the policy head if `rl.head_chunk_tokens` is not set."""


@dataclass(frozen=True)
class Memory:
    """One rank's memory, in bytes."""

    weights: int
    gradients: int
    """fp32, as Megatron's DistributedDataParallel accumulates them."""
    optimizer: int
    """fp32 masters and Adam's two moments; over data-parallel ranks if distributed."""
    reference: int
    """A second copy of the weights, if the loss has a KL term."""
    activations: int
    """Of all micro-batches in flight."""
    recomputed: int
    """The part of the activations that `rl.recompute=full` makes for a layer's backward pass: it is not there together with the
    head."""
    head: int
    """Logits of one chunk, all that the policy head holds of them, and the output weight's gradient. 0 if the pipeline's first
    stage needs more without it than its last with it."""
    logits_avoided: int
    """Whole fp32 logits of one micro-batch and their gradient, which the policy head avoids."""
    parked: int
    """Of the states, what leaves the device while responses are sampled (`rl.offload`)."""
    copies: int
    """Bytes of the host that hold copies of this rank's share of the optimizer while a checkpoint is gathered."""
    on_host: int
    """Bytes of the host, not of the device: what is parked, except gradients, and Adam's moments if they stay there."""
    generation: int
    """What sampling adds: the native engine's KV cache, or all that a colocated vLLM uses while it generates."""
    overhead: int

    @property
    def states(self) -> int:
        """What stays on the device in every phase."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.overhead

    @property
    def training(self) -> int:
        """Peak while the policy is updated."""
        return self.states + self.activations + max(0, self.head - self.recomputed)

    @property
    def generating(self) -> int:
        """Peak while responses are sampled."""
        return self.states - self.parked + self.generation

    @property
    def peak(self) -> int:
        return max(self.training, self.generating)


def estimate(settings: Settings, data_parallel: int, engine: str, on_gpu: bool) -> Memory:
    """Memory of the fullest rank of the RL stage.

    Args:
        data_parallel: ranks that hold the same part of the model and see different sequences.
        engine: the rollout engine, `native` or `vllm`.
    """
    model, layout, rl = settings.model, settings.layout, settings.rl
    dense, experts = on_rank(model, layout)
    own = dense + experts
    element = 2 if model.dtype == "bf16" else 4
    # fp32 parameters are their own masters; of a bf16 one the precision-aware optimizer keeps the other half.
    masters = 0 if model.dtype == "fp32" else 2 if rl.optimizer.precision_aware else 4
    moments = MOMENTS // 2 if rl.optimizer.moments == "bf16" else MOMENTS
    shards = data_parallel * layout.cp if rl.optimizer.distributed else 1
    # Experts are copied over fewer ranks than dense weights: ep of the data-parallel ranks hold different ones.
    expert_shards = max(1, shards * layout.tp // layout.ep) if rl.optimizer.distributed else 1
    mine = dense // shards + experts // expert_shards  # parameters whose optimizer state is here
    tokens = layout.micro_batch_tokens // layout.cp
    vocab = count(model).embedding // model.hidden_size // layout.tp
    # 1F1B: the first stage keeps pp micro-batches, the last one has the head.
    head = _head(rl.head_chunk_tokens, tokens, vocab, model.hidden_size, element)
    kept, recomputed = (element * n for n in activations(settings, tokens, on_gpu, in_flight=1))
    first, _ = (element * n for n in activations(settings, tokens, on_gpu, in_flight=layout.pp))
    if first > kept + max(0, head - recomputed):
        kept, head = first, 0
    parts = {
        "weights": own * element,
        "gradients": own * 4,
        "optimizer": masters * mine + (0 if rl.optimizer.cpu_offload else moments * mine),
    }
    return Memory(
        **parts,
        reference=own * element if settings.algo.kl_coef > 0 else 0,
        activations=kept,
        recomputed=recomputed,
        head=head,
        logits_avoided=2 * 4 * tokens * vocab,
        parked=sum(parts[name] for name in {*rl.offload}),
        copies=SAVED * (min(mine, BUCKET // shards) if _is_cut(settings) else mine) if rl.optimizer.distributed else 0,
        on_host=sum(parts[name] for name in {*rl.offload} - {"gradients"}) + MOMENTS * mine * rl.optimizer.cpu_offload,
        generation=_generation(settings, engine, on_gpu),
        overhead=int(OVERHEAD_GIB * GIB) if on_gpu else 0,
    )


def _generation(settings: Settings, engine: str, on_gpu: bool) -> int:
    """Bytes that sampling adds to what stays on the device."""
    rollout, cache = settings.rollout, int(settings.rollout.kv_memory_gib * GIB)
    if engine == "native":
        return cache
    if rollout.mode != "colocated":
        return 0
    if on_gpu:
        return int(rollout.gpu_memory_share * settings.cluster.device_memory_gib * GIB)
    own = settings.layout.model_copy(update={"tp": settings.layout.engine_tp, "pp": 1, "ep": 1})
    return cache + sum(on_rank(settings.model, own)) * (2 if settings.model.dtype == "bf16" else 4)


MOMENTS = 8
"""Bytes of Adam's two moments of a parameter."""
SAVED = 12
"""Bytes of one parameter in a checkpoint: fp32 master and Adam's two moments."""
GATHERED = 12
"""Bytes of a parameter that the writer holds for a moment as it gathers them: what comes in of one of the three, of the one
before, and the two joined. A rehearsal and a run on CPUs both count them."""
BUCKET = 40_000_000
"""Parameters that are gathered at once if gradients are summed in buckets (Megatron's size of one)."""


def host(settings: Settings, memory: Memory, on_gpu: bool) -> tuple[int, str]:
    """Bytes of host memory that one node needs at most, and for what.

    Each rank of the warm-up reads the whole model before it moves to the device (stages/sft.py); with ZeRO 3 only rank 0 holds
    all of it, as it is exported. To save a checkpoint, one rank of each part of the model gathers that part's optimizer state
    on the host: 36 bytes a parameter if it has all of it, 24 + 12 / n of n data-parallel ranks. On CPU the ranks' device
    memory is the node's as well.
    """
    ranks, layout = settings.cluster.devices_per_node, settings.layout
    whole = count(settings.model).total * (2 if settings.model.dtype == "bf16" else 4)
    writers = min(ranks, layout.tp * layout.pp * layout.ep)
    saving = writers * _gathered(settings) + ranks * memory.copies
    away = ranks * memory.on_host
    needs = [(away, "what rl.offload and rl.optimizer.cpu_offload keep there" if away else "nothing large")]
    if settings.sft.enabled and settings.sft.zero_stage == 3:
        needs.append((whole, "the warm-up's model, whole on rank 0 as it is exported"))
    elif settings.sft.enabled:
        needs.append((ranks * whole, f"the warm-up's model on each of {ranks} ranks"))
    if not on_gpu:
        needs.append((ranks * memory.peak, f"the {ranks} ranks of RL"))
        saving += ranks * memory.states
    needs.append((saving + away, "RL while it saves a checkpoint"))
    return max(needs)


def _gathered(settings: Settings) -> int:
    """Bytes of the rank that gathers and writes a part of the model, without the copies of its own share."""
    own = sum(on_rank(settings.model, settings.layout))
    if not settings.rl.optimizer.distributed:
        return SAVED * own
    return SAVED * own + GATHERED * (min(own, BUCKET) if _is_cut(settings) else own)


def _is_cut(settings: Settings) -> bool:
    """Whether gradients, and with them what is gathered, lie in several buckets. Later pipeline stages always have one."""
    return settings.rl.overlap_grad_reduce and settings.layout.pp == 1


def _head(chunk: int | None, tokens: int, vocab: int, hidden: int, element: int) -> int:
    """Bytes of the policy head's fused mode: one chunk of fp32 logits, the gradient of the output weight `[vocab, hidden]`
    until it is added to the buffer, and its fp32 sum where the weight is narrower."""
    logits = 4 * min(chunk or tokens, tokens) * vocab
    weight = vocab * hidden
    return (logits if chunk else min(logits, HEAD_LOGITS_BYTES)) + weight * element + (4 * weight if element < 4 else 0)


def activations(settings: Settings, tokens: int, on_gpu: bool, in_flight: int) -> tuple[int, int]:
    """Elements kept for the backward pass on one rank, with `tokens` tokens in a micro-batch and `in_flight` micro-batches
    whose backward pass is still to come; and how many of them are made again and used up with each layer.

    They are what megatron-core's unfused layers keep (a rehearsal lists the same tensors), and the gradients of one
    MLP, whose backward pass comes first, when everything is still kept.
    """
    model, layout = settings.model, settings.layout
    stream = model.hidden_size // (layout.tp if layout.sp else 1)
    # Inputs and outputs of both norms, then attention and MLP.
    mlp, layers, rl = _mlp(settings, tokens, settings.rl.fused_swiglu), model.num_layers // layout.pp, settings.rl
    # The backward pass of one MLP: it makes as much as an unfused one keeps.
    gradients = _mlp(settings, tokens, fused=False)
    # A norm is one kernel on a GPU. On a CPU it is several: in fp32 they also keep the input divided by its size, in bf16 both
    # it and the input as fp32 numbers, and the input itself goes.
    more = 0 if on_gpu else tokens * (3 if model.dtype == "bf16" else 1)
    layer = tokens * (4 * stream + _attention(settings)) + more * (2 * stream + _normed_heads(settings)) + mlp
    gradients += more * stream  # the last norm's
    if rl.recompute == "full":
        kept, again = _recomputed(settings, tokens * stream, layer, in_flight)
        return kept + again + gradients, again and again + gradients
    if rl.recompute == "selective" and {"mlp", "moe"} & {*recomputed_modules(model, rl.recompute_modules)}:
        return layers * in_flight * (layer - mlp) + mlp + gradients, 0
    return layers * in_flight * layer + gradients, 0


def _recomputed(settings: Settings, given: int, layer: int, in_flight: int) -> tuple[int, int]:
    """Elements kept if whole layers run again, and those of the unit that does, where every layer is in one. `given`: a layer's
    input; `layer`: all that it keeps otherwise."""
    rl, layout = settings.rl, settings.layout
    layers = settings.model.num_layers // layout.pp
    if rl.recompute_method == "uniform":  # the input of every unit, and one unit at work
        unit = min(rl.recompute_layers, layers)
        return -(-layers // unit) * in_flight * given, unit * layer
    chunks = layout.vpp or 1
    again = min(rl.recompute_layers, layers // chunks) * chunks
    whole = layers - again  # the last ones, so their backward pass comes first and frees them
    return in_flight * (again * given + whole * layer) + max(0, layer - whole * layer), 0


def _attention(settings: Settings) -> int:
    """Elements that the attention of one layer keeps for a token, without its input. The kernel keeps no scores."""
    model, layout = settings.model, settings.layout
    queries, keys = model.num_attention_heads, model.num_query_groups
    # q, k and v in one tensor; q and k once more, rotated; the output; and q as its norm reads it.
    heads = 3 * queries + 3 * keys + (queries if model.qk_norm else 0)
    # Packed rows keep cosine and sine of every position, for q and for k; padded rows share them among sequences.
    rotary = 4 if settings.rl.rows == "packed" else 0
    return (heads // layout.tp + rotary) * model.head_dim


def _normed_heads(settings: Settings) -> int:
    """Elements of a token's queries and keys that have norms of their own."""
    model = settings.model
    heads = (model.num_attention_heads + model.num_query_groups) * model.qk_norm
    return heads * model.head_dim // settings.layout.tp


def _mlp(settings: Settings, tokens: int, fused: bool) -> int:
    """Elements that the MLP of one layer keeps on a rank, without a dense MLP's input, which is the norm's output. `fused`: as
    `rl.fused_swiglu`."""
    model, layout = settings.model, settings.layout
    if not model.experts.count:
        # Gate and up in one tensor, the activated gate, a copy of up, and their product; fused, the first and the last.
        return (3 if fused else 5) * tokens * model.ffn_hidden_size // layout.tp
    # Each token is sent to several experts: its copy, the same five, and the product times the router's weight; fused, only
    # gate, up and the result. With expert
    # parallelism a rank's experts are whole and see tp times fewer tokens, otherwise they are cut like a dense MLP.
    sent = tokens * model.experts.per_token // (layout.tp if layout.ep > 1 else 1)
    width = model.experts.ffn_hidden_size // (1 if layout.ep > 1 else layout.tp)
    return sent * (model.hidden_size + (3 if fused else 6) * width)
