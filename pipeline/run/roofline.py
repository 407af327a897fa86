"""Seconds of an RL step from the settings alone: each phase at the slower of arithmetic and bandwidth.

It ranks layouts and levers in `stage=plan search=true` where a rehearsal of each would take minutes. Products reach
`cluster.speed.efficiency` of the peak, all responses have their full length, experts get equal shares, and only those
collectives overlap that a lever says. Data sheets' figures: trust the order more than the seconds.
"""

from dataclasses import dataclass

from pipeline.run.memory import Memory
from pipeline.run.pace import generation_seconds
from pipeline.run.plan import data_parallel, world_size
from pipeline.run.shapes import count, on_rank, visited
from pipeline.settings import Settings
from pipeline.settings.levers import recomputed_modules

GIGA = 1e9
LAYER_BYTES = 60
"""Times that a layer's hidden states cross the device's memory, forward and backward, besides the products: norms, rotation,
activation, residual."""


@dataclass(frozen=True)
class Seconds:
    """Of the phases of one RL step."""

    generation: float
    logprobs: float
    update: float
    sync: float
    moving: float
    """Parts of the actor leaving the device and coming back (`rl.offload`)."""
    tokens: float
    """Tokens of a step for each device."""

    @property
    def step(self) -> float:
        return self.generation + self.logprobs + self.update + self.sync + self.moving

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step


def predict(settings: Settings, memory: Memory) -> Seconds:
    """`memory` is the plan's estimate of the same settings. For vLLM: the native engine's sampling counts as no time."""
    rl, rollout, layout, speed = settings.rl, settings.rollout, settings.layout, settings.cluster.speed
    length, world = rollout.max_prompt_tokens + rollout.max_new_tokens, world_size(settings)
    responses, copies = rl.prompts_per_step * rl.group_size, data_parallel(settings)
    tokens = responses * length
    micro_batches = max(1, tokens // rl.minibatches // copies // layout.micro_batch_tokens)
    bubble = (micro_batches + (layout.pp - 1) / (layout.vpp or 1)) / micro_batches
    forward = _forward(settings, length) * tokens / world
    each_rank = tokens / copies / layout.cp
    ours = sum(on_rank(settings.model, layout))

    exchanged = _exchanged(settings) * each_rank
    again = _again(settings)
    passes = forward * (3 + again) + exchanged * (2.5 + again)
    # fp32 gradients are summed and weights of the model's type gathered, over data- and context-parallel ranks.
    shards = copies * layout.cp
    share = (shards - 1) / shards
    rate = GIGA * (speed.link_gb_s if _is_near(settings, shards) else speed.network_gb_s)
    reduced = ours * 4 * share / rate * (1 if rl.optimizer.distributed else 2)
    gathered = memory.weights * share / rate if rl.optimizer.distributed else 0.0
    adam = 2.5 * (memory.weights / shards + memory.gradients / shards + memory.optimizer) / (speed.memory_gb_s * GIGA)
    moments = 16 * ours / shards / (speed.host_gb_s * GIGA) if rl.optimizer.cpu_offload else 0.0
    one = passes / rl.minibatches * bubble
    hidden = one * 0.6  # the backward pass
    one += max(0.0, reduced - hidden) if rl.overlap_grad_reduce else reduced
    one += max(0.0, gathered - one * 0.3) if rl.overlap_param_gather and rl.minibatches > 1 else gathered
    scored = (1 if rl.old_logprobs != "engine" else 0) + (1 if settings.algo.kl_coef else 0)
    whole = count(settings.model).total * (2 if settings.model.dtype == "bf16" else 4)
    copied = memory.on_host if rl.offload else 0
    return Seconds(
        generation=max(0.0, generation_seconds(settings, world, responses, length)),
        logprobs=(forward + exchanged) * bubble * scored,
        update=(one + adam + moments) * rl.minibatches * rl.epochs,
        sync=whole / (speed.link_gb_s * GIGA),
        moving=2 * copied / (speed.host_gb_s * GIGA),
        tokens=tokens / world,
    )


def _forward(settings: Settings, length: int) -> float:
    """Seconds of one device for one token forward, if the token's work were all on it."""
    model, speed = settings.model, settings.cluster.speed
    head_width = model.num_attention_heads * model.head_dim
    operations = 2 * visited(model) + 2 * model.num_layers * head_width * length  # causal: half of the square
    peak = operations / (speed.tflops * 1e12 * speed.efficiency)
    traffic = LAYER_BYTES / 3 * model.num_layers * model.hidden_size / (speed.memory_gb_s * GIGA)
    return peak + traffic


def _again(settings: Settings) -> float:
    """Forward passes that run again in each update."""
    rl, model = settings.rl, settings.model
    if rl.recompute == "full":
        layers = model.num_layers // settings.layout.pp
        return (
            min(1.0, rl.recompute_layers * (settings.layout.vpp or 1) / layers)
            if rl.recompute_method == "block"
            else 1.0
        )
    if rl.recompute == "selective" and {"mlp", "moe"} & {*recomputed_modules(model, rl.recompute_modules)}:
        experts = model.experts
        width = experts.per_token * experts.ffn_hidden_size if experts.count else model.ffn_hidden_size
        return min(1.0, 3 * model.hidden_size * width * model.num_layers / visited(model))
    return 0.0


def _exchanged(settings: Settings) -> float:
    """Seconds of one rank's collectives for one of its tokens forward."""
    model, layout, speed = settings.model, settings.layout, settings.cluster.speed
    element, layers = (2 if model.dtype == "bf16" else 4), model.num_layers / layout.pp
    state = model.hidden_size * element
    near = GIGA * (speed.link_gb_s if layout.tp <= settings.cluster.devices_per_node else speed.network_gb_s)
    tensor = 4 * state * (layout.tp - 1) / layout.tp / near  # gathered and scattered around attention and MLP
    keys = 2 * model.num_query_groups * model.head_dim * element / layout.tp
    place = GIGA * (speed.link_gb_s if _is_near(settings, layout.cp) else speed.network_gb_s)
    context = keys * (layout.cp - 1) / place
    sent = 2 * model.experts.per_token * state / layout.tp if model.experts.count else 0.0
    place = GIGA * (
        speed.link_gb_s if layout.ep * layout.tp <= settings.cluster.devices_per_node else speed.network_gb_s
    )
    experts = sent * (layout.ep - 1) / layout.ep / place
    pipeline = state / layout.tp / (speed.network_gb_s * GIGA) if layout.pp > 1 else 0.0
    return layers * (tensor + context + experts) + pipeline


def _is_near(settings: Settings, ranks: int) -> bool:
    """Whether that many ranks, each tp apart, are within a node."""
    return ranks * settings.layout.tp <= settings.cluster.devices_per_node
