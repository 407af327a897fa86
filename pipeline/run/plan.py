"""The plan of a run: layout, memory and every node's commands; and why a layout cannot work.

`check` comes before every stage that builds the actor, so that a cluster's first minutes are not spent on finding out that
40 heads cannot be split over 16 ranks.
"""

import shlex
from pathlib import Path

from pipeline.common.errors import UsageError
from pipeline.run import sft_memory
from pipeline.run.catalog import Job
from pipeline.run.door import ROOT
from pipeline.run.launch import command
from pipeline.run.machines import device_problem, gpu_count
from pipeline.run.memory import GIB, Memory, estimate, host
from pipeline.run.sft_memory import SftMemory
from pipeline.run.shapes import count
from pipeline.settings import Settings
from pipeline.settings.engine import chosen_engine, is_installed, uses_gpus, why_chosen
from pipeline.settings.levers import recomputed_modules

PLAN_ALONE = ("rehearse=", "search=", "plan.", "cluster.speed.")
"""Begin arguments of stage=plan that no stage of the plan reads."""


def world_size(settings: Settings) -> int:
    """Ranks of the whole run."""
    return settings.cluster.nnodes * settings.cluster.devices_per_node


def data_parallel(settings: Settings) -> int:
    """Copies of the model, each with different sequences; `check` makes sure that it is a whole number."""
    layout = settings.layout
    return world_size(settings) // (layout.tp * layout.pp * layout.cp)


def check(settings: Settings) -> None:
    """Refuses settings that cannot work.

    Raises:
        UsageError: every reason found, each with its keys and values and with what would work.
    """
    generates = settings.stage not in ("convert", "export")
    problems = [*_cuts(settings), *_world(settings), *(_lengths(settings) if generates else [])]
    if not problems:
        problems = [*(_batch(settings) if settings.stage == "rl" else []), *_fit(settings)]
    if problems:
        raise UsageError("This layout cannot work:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _cuts(settings: Settings) -> list[str]:
    """Whether the model can be split as the layout says."""
    model, layout, experts = settings.model, settings.layout, settings.model.experts
    problems = []
    for key, what in (("num_attention_heads", "heads"), ("num_query_groups", "key/value heads")):
        if getattr(model, key) % layout.tp:
            problems.append(f"layout.tp={layout.tp} does not divide model.{key}={getattr(model, key)} {what}.")
    if model.num_attention_heads % model.num_query_groups:
        problems.append(
            f"model.num_query_groups={model.num_query_groups} does not divide"
            f" model.num_attention_heads={model.num_attention_heads}."
        )
    width = experts.ffn_hidden_size if experts.count else model.ffn_hidden_size
    if width % layout.tp and not (experts.count and layout.ep > 1):
        problems.append(f"layout.tp={layout.tp} does not divide the MLP's width of {width}.")
    chunks = layout.pp * (layout.vpp or 1)
    if model.num_layers % chunks:
        name = f"layout.pp={layout.pp}" + (f" times layout.vpp={layout.vpp}" if layout.vpp else "")
        problems.append(f"{name} does not divide model.num_layers={model.num_layers}.")
    if layout.vpp and layout.pp == 1:
        problems.append(f"layout.vpp={layout.vpp} interleaves pipeline stages, and layout.pp=1 has only one.")
    if layout.sp and layout.tp == 1:
        problems.append("layout.sp=true shares norms out over tensor-parallel ranks; it needs layout.tp > 1.")
    if layout.ep > 1 and not experts.count:
        problems.append(f"layout.ep={layout.ep} spreads experts, and this model has none.")
    elif experts.count % layout.ep:
        problems.append(f"layout.ep={layout.ep} does not divide model.experts.count={experts.count}.")
    if layout.ep > 1 and layout.tp > 1 and not layout.sp:
        problems.append(f"layout.ep={layout.ep} with layout.tp={layout.tp} needs layout.sp=true (Megatron's MoE).")
    if layout.pp > 1 and settings.rollout.engine == "native":
        problems.append(
            f"rollout.engine=native decodes token by token and would leave layout.pp={layout.pp} stages idle."
            " Use rollout.engine=vllm, or layout.pp=1."
        )
    return problems


def _world(settings: Settings) -> list[str]:
    """Whether the ranks divide evenly."""
    cluster, layout, world = settings.cluster, settings.layout, world_size(settings)
    ranks = f"{world} ranks (cluster.nnodes={cluster.nnodes} times cluster.devices_per_node={cluster.devices_per_node})"
    problems = []
    if cluster.node_rank >= cluster.nnodes:
        problems.append(f"cluster.node_rank={cluster.node_rank} must be below cluster.nnodes={cluster.nnodes}.")
    model_ranks = layout.tp * layout.pp * layout.cp
    if world % model_ranks:
        problems.append(
            f"{ranks} are not divisible by tp {layout.tp} x pp {layout.pp} x cp {layout.cp} = {model_ranks},"
            " the ranks of one copy of the model."
        )
    elif (world // layout.pp) % layout.ep:
        problems.append(f"{ranks} by pp {layout.pp} are not divisible by layout.ep={layout.ep}.")
    if chosen_engine(settings) == "vllm":
        problems += _engines(settings)
    return problems


def _engines(settings: Settings) -> list[str]:
    """Whether the ranks that sample with vLLM can be grouped into engines."""
    rollout, size = settings.rollout, settings.layout.engine_tp
    if rollout.mode == "serve":
        return []  # the servers' own business
    key, ranks = "cluster.devices_per_node", settings.cluster.devices_per_node
    if rollout.mode == "standalone":
        key, ranks = "rollout.server_ranks", rollout.server_ranks
    problems = []
    if ranks % size:
        problems.append(f"layout.rollout_tp={size} does not divide {key}={ranks}.")
    if settings.model.num_attention_heads % size:
        problems.append(
            f"layout.rollout_tp={size} does not divide {settings.model.num_attention_heads} attention heads."
        )
    return problems


def _lengths(settings: Settings) -> list[str]:
    """Whether the longest sequence fits."""
    rollout, layout = settings.rollout, settings.layout
    longest = rollout.max_prompt_tokens + rollout.max_new_tokens
    text = f"rollout.max_prompt_tokens={rollout.max_prompt_tokens} + rollout.max_new_tokens={rollout.max_new_tokens}"
    problems = []
    if longest > settings.model.max_position_embeddings:
        problems.append(
            f"{text} = {longest} exceed the model's context of {settings.model.max_position_embeddings} tokens."
        )
    if longest > layout.micro_batch_tokens and settings.stage != "evaluate":  # which makes no micro-batches
        problems.append(f"{text} = {longest} do not fit into layout.micro_batch_tokens={layout.micro_batch_tokens}.")
    return problems


def _batch(settings: Settings) -> list[str]:
    """Whether a rollout batch can be shared evenly."""
    rl, copies = settings.rl, data_parallel(settings)
    samples = rl.prompts_per_step * rl.group_size
    text = f"rl.prompts_per_step={rl.prompts_per_step} x rl.group_size={rl.group_size} = {samples} responses"
    if samples % rl.minibatches:
        return [f"{text} are not divisible by rl.minibatches={rl.minibatches}."]
    if (samples // rl.minibatches) % copies:
        return [
            f"{text} make minibatches of {samples // rl.minibatches} (rl.minibatches={rl.minibatches}), which"
            f" {copies} data-parallel ranks cannot share evenly."
        ]
    return []


def _fit(settings: Settings) -> list[str]:
    """Whether weights, gradients and optimizer fit at all; the plan warns if the rest does not."""
    memory, device = memory_of(settings), settings.cluster.device_memory_gib
    if memory.states <= device * GIB:
        return []
    return [
        f"weights, gradients and optimizer alone need {memory.states / GIB:.1f} GiB a device, which has {device:g}"
        f" (cluster.device_memory_gib): use {_or_offload(settings)}more nodes, or a larger layout.tp or layout.pp."
    ]


def _or_offload(settings: Settings) -> str:
    """Adam's moments on the host, where that is not yet so and would be enough."""
    optimizer = settings.rl.optimizer
    rl = settings.rl.model_copy(update={"optimizer": optimizer.model_copy(update={"cpu_offload": True})})
    least = memory_of(settings.model_copy(update={"rl": rl})).states
    is_enough = least <= settings.cluster.device_memory_gib * GIB
    return "rl.optimizer.cpu_offload=true, " if is_enough and not optimizer.cpu_offload else ""


def check_warm_up(settings: Settings) -> None:
    """Raises `UsageError` if the warm-up's weights, gradients and optimizer do not fit on a device."""
    memory, device = _warm_up_memory(settings), settings.cluster.device_memory_gib
    if memory.states <= device * GIB:
        return
    least = _warm_up_memory(settings.model_copy(update={"sft": settings.sft.model_copy(update={"zero_stage": 3})}))
    cure = f"sft.zero_stage=3 ({least.states / GIB:.1f} GiB), " if settings.sft.zero_stage < 3 else ""
    raise UsageError(
        f"The warm-up's weights, gradients and optimizer alone need {memory.states / GIB:.1f} GiB a device with"
        f" sft.zero_stage={settings.sft.zero_stage} over {world_size(settings)} ranks, and a device has {device:g}"
        f" (cluster.device_memory_gib). Use {cure}more nodes, or sft.enabled=false."
    )


def _warm_up_memory(settings: Settings) -> SftMemory:
    return sft_memory.estimate(settings, world_size(settings), uses_gpus(settings.cluster))


def memory_of(settings: Settings) -> Memory:
    """The estimate for the fullest device."""
    return estimate(settings, data_parallel(settings), chosen_engine(settings), uses_gpus(settings.cluster))


def describe(jobs: list[Job], words: list[str]) -> str:
    """The plan of these jobs as text: layout, memory, what to type on each node, and each node's command for each job.

    The jobs have passed `pipeline.run.checks`.
    """
    settings = jobs[0].settings
    parts: list[str] = []
    actor = next((job for job in jobs if job.stage.name == "rl"), None) or next(
        (job for job in jobs if job.stage.uses_layout), None
    )
    if actor is not None:
        parts += [*_layout_lines(actor.settings), "", *_memory_lines(actor.settings), *_host_lines(actor.settings), ""]
    warm_up = next((job.settings for job in jobs if job.stage.name == "sft" and job.settings.sft.enabled), None)
    if warm_up is not None:
        parts += [*_warm_up_lines(warm_up), ""]
    parts += _typed_lines(jobs, words)
    for job in jobs:
        parts += _command_lines(job)
    parts += ["", f"Nothing was run. The run's folder is {Path(settings.runs_dir) / settings.name}."]
    return "\n".join(parts)


def _layout_lines(settings: Settings) -> list[str]:
    cluster, layout, rl, model = settings.cluster, settings.layout, settings.rl, settings.model
    samples, copies = rl.prompts_per_step * rl.group_size, data_parallel(settings)
    longest = settings.rollout.max_prompt_tokens + settings.rollout.max_new_tokens
    per_copy = samples // rl.minibatches // copies
    full = max(1, layout.micro_batch_tokens // longest)
    return [
        f"Model    {settings.model_name}: {count(model).total:,} parameters, {model.dtype}"
        + (f", published as {model.published_as}" if model.published_as else ""),
        f"Presets  algo {settings.algo_name}, data {settings.data_name}, cluster {settings.cluster_name}",
        f"Weights  {model.path or _no_weights(settings)}",
        f"World    {world_size(settings)} ranks: {cluster.nnodes} node{'s' * (cluster.nnodes > 1)} of"
        f" {cluster.devices_per_node} {'GPUs' if uses_gpus(cluster) else 'processes'}"
        f" with {cluster.device_memory_gib:g} GiB",
        f"Layout   TP {layout.tp}, PP {layout.pp}" + (f" (VPP {layout.vpp})" if layout.vpp else "")
        + f", CP {layout.cp}, EP {layout.ep}, DP {copies}, sequence parallel {'on' if layout.sp else 'off'}",
        f"Rollout  {_engine_text(settings)}; up to"
        f" {settings.rollout.max_prompt_tokens} + {settings.rollout.max_new_tokens} tokens",
        f"Batch    {rl.prompts_per_step} prompts x {rl.group_size} = {samples} responses a step;"
        f" {rl.minibatches} minibatches x {rl.epochs} epoch{'s' * (rl.epochs > 1)} of {samples // rl.minibatches}",
        f"         {per_copy} of a minibatch on each data-parallel rank, in micro-batches of"
        f" {layout.micro_batch_tokens} tokens: at most {-(-per_copy // full)} ({full} full-length responses each)",
    ]  # fmt: skip


def _engine_text(settings: Settings) -> str:
    engine, layout = chosen_engine(settings), settings.layout
    size = layout.engine_tp if engine == "vllm" else layout.tp
    missing = "; vLLM is not installed here" if engine == "vllm" and not is_installed() else ""
    return f"{engine} engine ({why_chosen(settings)}{missing}), TP {size}"


def _no_weights(settings: Settings) -> str:
    if settings.data.tokenizer == "sentencepiece":
        return "random"
    return (
        f"model.path is not set: download {settings.model.published_as or 'the model'} and give model.path=<its folder>"
    )


def _memory_lines(settings: Settings) -> list[str]:
    memory, device = memory_of(settings), settings.cluster.device_memory_gib
    unit, name = _unit(memory.peak)
    rows = [
        ("weights", memory.weights, settings.model.dtype),
        ("gradients", memory.gradients, "fp32"),
        ("optimizer", memory.optimizer, _states(settings) + _over(settings)),
        ("reference", memory.reference, "for the KL term" if memory.reference else "no KL term"),
        ("overhead", memory.overhead, "context, communication buffers, allocator"),
        ("activations", memory.activations, _kept(settings)),
        (
            "policy head",
            memory.head,
            f"a chunk of logits and the gradient; whole logits: {memory.logits_avoided / unit:.1f}",
        ),
        ("generation", memory.generation, _generation_text(settings)),
    ]
    if memory.parked:
        rows.append(("parked", -memory.parked, f"{', '.join(settings.rl.offload)}, while the engine generates"))
    peaks = f"training {memory.training / unit:.1f}, generating {memory.generating / unit:.1f}; "
    rows.append(("peak", memory.peak, f"{peaks}a device has {device * GIB / unit:g}"))
    lines = [f"Memory of the fullest device, {name} (estimate)", *_sizes(rows, unit)]
    if memory.peak > device * GIB:
        lines.append(f"  WARNING: by this estimate it does not fit. Try {_cures(settings, memory)}.")
    if uses_gpus(settings.cluster) and gpu_count():  # planned on a machine of the cluster
        problem = device_problem(settings.cluster)
        lines += [f"  WARNING: {problem}"] if problem else []
    return lines


def _warm_up_lines(settings: Settings) -> list[str]:
    """Memory of the warm-up on one device, and a warning if it is more than the device has."""
    memory, sft, device = _warm_up_memory(settings), settings.sft, settings.cluster.device_memory_gib
    (unit, name), moment = _unit(memory.peak), memory.fullest
    rows = [
        ("weights", memory.weights, f"{settings.model.dtype}, ZeRO {sft.zero_stage} over {world_size(settings)} ranks"),
        ("gradients", moment.gradients, settings.model.dtype),
        ("optimizer", memory.optimizer, "masters and Adam's moments"),
        ("buffers", moment.buffers, "communication" + (" and gathered layers" if sft.zero_stage == 3 else "")),
        ("overhead", memory.overhead, "context, allocator"),
        ("activations", moment.activations, "recomputed" if sft.gradient_checkpointing else "kept"),
        ("temporary", moment.temporary, "tiles of logits, gradients of embeddings, or Adam's square roots"),
        ("peak", memory.peak, f"at {moment.name}; a device has {device * GIB / unit:g}"),
    ]
    lines = [f"Memory of the warm-up on a device, {name} (estimate)", *_sizes(rows, unit)]
    if memory.peak > device * GIB:
        lines.append(
            "  WARNING: by this estimate it does not fit. Try sft.zero_stage=3, sft.gradient_checkpointing=true, a smaller"
            " sft.micro_batch_size or sft.sequence_length, or more nodes."
        )
    return lines


def _states(settings: Settings) -> str:
    """What of the optimizer is on the device, in words."""
    return (
        "masters; Adam's moments are on the host" if settings.rl.optimizer.cpu_offload else "masters and Adam's moments"
    )


def _kept(settings: Settings) -> str:
    """What becomes of activations, in words."""
    rl = settings.rl
    if rl.recompute == "selective":
        return f"kept, except {', '.join(recomputed_modules(settings.model, rl.recompute_modules))} (recomputed)"
    return "recomputed" if rl.recompute == "full" else "kept"


def _unit(peak: int) -> tuple[float, str]:
    """Bytes of the unit in which a table is readable, and its name."""
    return (GIB, "GiB") if peak > 4 * GIB else (GIB / 1024, "MiB")


def _sizes(rows: list[tuple[str, int, str]], unit: float) -> list[str]:
    """The lines of a table of memory: (what, bytes, note)."""
    return [f"  {what:<12}{size / unit:8.1f}  {note}" for what, size, note in rows]


def _cures(settings: Settings, memory: Memory) -> str:
    """What makes each peak smaller that is too large."""
    limit, gpus = settings.cluster.device_memory_gib * GIB, uses_gpus(settings.cluster)
    cures = []
    if memory.training > limit:
        cures += [] if settings.rl.recompute == "full" else ["rl.recompute=full"]
        cures += [] if settings.rl.optimizer.cpu_offload or not gpus else ["rl.optimizer.cpu_offload=true"]
        cures.append("a smaller layout.micro_batch_tokens")
    if memory.generating > limit:
        on_vllm = chosen_engine(settings) == "vllm" and gpus
        if gpus and settings.rollout.mode == "colocated" and not settings.rl.offload:
            cures.append("rl.offload=gradients,optimizer")
        cures.append("a smaller " + ("rollout.gpu_memory_share" if on_vllm else "rollout.kv_memory_gib"))
    cures.append("a larger layout.tp" + (", or more nodes" if gpus else ""))
    return ", ".join(cures)


def _host_lines(settings: Settings) -> list[str]:
    """Host memory of one node, and a warning if the node has less."""
    need, what = host(settings, memory_of(settings), uses_gpus(settings.cluster))
    have = settings.cluster.node_memory_gib
    lines = [f"Host memory of a node, GiB (estimate): {need / GIB:.1f} for {what}; a node has {have:g}"]
    if need > have * GIB:
        lines.append(
            "  WARNING: by this estimate it does not fit (cluster.node_memory_gib). Use fewer ranks a node"
            " (cluster.devices_per_node)"
            + (", or sft.enabled=false to go without the warm-up." if "warm-up" in what else ".")
        )
    return lines


def _generation_text(settings: Settings) -> str:
    if chosen_engine(settings) == "native":
        return "KV cache, at most"
    if settings.rollout.mode != "colocated":
        return "on the servers"
    if uses_gpus(settings.cluster):
        return f"vLLM's share of {settings.rollout.gpu_memory_share:g}"
    return "vLLM's weights and KV cache"


def _over(settings: Settings) -> str:
    shards = data_parallel(settings) * settings.layout.cp
    return f", over {shards} ranks" if settings.rl.optimizer.distributed and shards > 1 else ""


def _typed_lines(jobs: list[Job], words: list[str]) -> list[str]:
    """What a person types on each of several nodes, one stage after the other, unless SLURM does."""
    cluster = jobs[0].settings.cluster
    if cluster.nnodes == 1:
        return []
    drop: tuple[str, ...] = (
        "stage=",
        "dry_run=",
        *PLAN_ALONE,
        "cluster.node_rank=",
        "cluster.nnodes=",
        "cluster.master_addr=",
        "cluster.master_port=",
    )
    if any(job.variant for job in jobs):
        drop = (*drop, "evaluate.checkpoint=")
    kept = " ".join(shlex.quote(word) for word in words if not word.startswith(drop))
    place = f"cluster.nnodes={cluster.nnodes} cluster.master_addr={cluster.master_addr}"
    place += f" cluster.master_port={cluster.master_port}"
    lines = []
    for job in jobs:
        which = f" evaluate.checkpoint={shlex.quote(job.settings.evaluate.checkpoint)}" if job.variant else ""
        for node in range(cluster.nnodes if job.on_every_node else 1):
            lines.append(f"  bash run.sh stage={job.stage.name} {kept}{which} {place} cluster.node_rank={node}")
    if cluster.master_addr in ("127.0.0.1", "localhost"):
        lines.append(
            f"  (cluster.master_addr={cluster.master_addr} joins nodes on one machine only: give the host name of node 0)"
        )
    return ["To type on each node", *lines, ""]


def _command_lines(job: Job) -> list[str]:
    cluster = job.settings.cluster
    root = ROOT / job.settings.runs_dir / job.settings.name
    if job.stage.name == "sft" and not job.settings.sft.enabled:
        return [f"# {job.label}: skipped (sft.enabled=false)"]
    nodes = range(cluster.nnodes if job.on_every_node else 1)
    lines = []
    for node in nodes:
        host = f", node {node} of {cluster.nnodes}" if cluster.nnodes > 1 else ""
        lines += [f"# {job.label}{host}", command(job, root, node).line()]
    return lines
