"""Keys that have no effect under the other settings of a run, as one table.

A key that the user gave and that changes nothing is an error: silently ignored, `algo.alpha=0.5` for GRPO would cost a
cluster-week. Presets in `configs/` are not the user. A key for another stage of the same run is fine, because the same
command line is repeated for each stage; so is a preset file's key that the command line turns off.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pipeline.common.benches import BENCHES
from pipeline.settings import Settings
from pipeline.settings.algo import NEIGHBOURS, STATIC
from pipeline.settings.engine import chosen_engine, uses_gpus, why_chosen
from pipeline.settings.ready_sets import READY_SETS
from pipeline.settings.schema import split_key

COUNTERFACTUAL = ("adpo", "fac", "dc_grpo", "abc_grpo")
"""Neighbours whose bounds `rl.counterfactual` tries out."""
TYPED = "the command line"
"""Origin of a key that was typed; any other origin is the name of a preset file."""


@dataclass(frozen=True)
class Rule:
    """Under `when`, the user's `keys` change nothing."""

    when: Callable[[Settings], bool]
    keys: tuple[str, ...]
    """Patterns of dotted keys, as of file names."""
    why: str
    """Completes `<key> has no effect: ...`; {s} is the settings, {engine} why the rollout engine was chosen."""
    cure: str = ""
    """What would make the key count; completes `..., or remove the key.`"""
    neutral: tuple[Any, ...] = ()
    """Values that only state what holds anyway, such as alpha=0 for a static loss."""
    but: tuple[str, ...] = ()
    """Patterns of keys among `keys` that do have an effect; {nodes} is the chosen entry of `model.layouts`."""
    typed_only: bool = False
    """Only for the command line: a preset file describes a whole run, whichever stage or node count is asked for."""


def _custom(s: Settings) -> bool:
    """A loss of the user's own may read any of the loss settings."""
    return s.algo.import_path is not None


def _static(s: Settings) -> bool:
    return not _custom(s) and s.algo.loss in STATIC


def _rigid(s: Settings) -> bool:
    """An elastic loss whose elasticity is turned off."""
    return not _custom(s) and s.algo.alpha == 0 and (s.algo.beta == 0 or s.algo.k == "none")


def _loss_is(*names: str) -> Callable[[Settings], bool]:
    return lambda s: not _custom(s) and s.algo.loss in names


def _loss_is_not(name: str) -> Callable[[Settings], bool]:
    return lambda s: not _custom(s) and s.algo.loss != name


def _unread(name: str) -> Callable[[Settings], bool]:
    """Neither the loss nor the counterfactual bounds read the settings of this neighbour."""
    return lambda s: _loss_is_not(name)(s) and not (s.rl.counterfactual and name in COUNTERFACTUAL)


def _native(s: Settings) -> bool:
    return chosen_engine(s) == "native"


def _vllm_in(s: Settings, mode: str) -> bool:
    return chosen_engine(s) == "vllm" and s.rollout.mode == mode


def _colocated(s: Settings) -> bool:
    return _vllm_in(s, "colocated")


def _served(s: Settings) -> bool:
    return _vllm_in(s, "serve")


def _alone(s: Settings) -> bool:
    """No two ranks hold the same weights."""
    return s.cluster.nnodes * s.cluster.devices_per_node == s.layout.tp * s.layout.pp


def _files(paths: Iterable[str]) -> bool:
    """All are files (there is at least one), so nothing has splits."""
    paths = list(paths)
    return bool(paths) and all(os.path.isfile(path) for path in paths)


def _bench_is(what: str) -> Callable[[Settings], bool]:
    return lambda s: s.stage == "bench" and s.bench.what == what


_RUN_KEYS = ("name", "runs_dir", "dry_run")
_BENCH_KEYS = (*_RUN_KEYS, "force", "bench.what", "bench.compare")

STAGE_RULES = (
    Rule(lambda s: s.stage == "test", ("*",), "stage=test runs the test suite and reads no settings", typed_only=True),
    Rule(
        lambda s: s.stage == "doctor" and s.doctor.check != "cluster", ("*",),
        "stage=doctor looks at the machine and reads no settings", but=(*_RUN_KEYS, "doctor.check"), typed_only=True,
    ),
    Rule(
        lambda s: s.stage == "doctor" and s.doctor.check == "cluster", ("*",),
        "stage=doctor check=cluster reads only cluster.*", but=(*_RUN_KEYS, "doctor.check", "cluster.*"), typed_only=True,
    ),
    Rule(
        lambda s: s.stage != "doctor", ("doctor.*",), "only stage=doctor reads it", "Use stage=doctor", typed_only=True,
    ),
    Rule(
        lambda s: s.stage in ("bench", "compare"), ("force",), "stage={s.stage} always runs", neutral=(False,), typed_only=True,
    ),
    *(
        Rule(
            _bench_is(what), ("*",), f"what={what} reads only {', '.join(entry.reads)}",
            but=(*_BENCH_KEYS, *entry.reads), typed_only=True,
        )
        for what, entry in BENCHES.items()
    ),
    Rule(
        lambda s: s.stage == "bench" and s.bench.what == "objective" and s.bench.repeats < 5, ("bench.repeats",),
        "what=objective makes at least 5 repetitions", "Use bench.repeats=5 or more",
    ),
    Rule(
        lambda s: s.stage != "bench", ("bench.*",), "only stage=bench reads it", "Use stage=bench", typed_only=True,
    ),
    Rule(
        lambda s: s.stage != "replay", ("replay.*",), "only stage=replay reads it", "Use stage=replay", typed_only=True,
    ),
    Rule(
        lambda s: s.stage != "compare", ("compare.*",), "only stage=compare reads it", "Use stage=compare", typed_only=True,
    ),
    Rule(
        lambda s: s.stage != "plan", ("plan.*",), "only stage=plan reads it", "Use stage=plan", typed_only=True,
    ),
    Rule(
        lambda s: s.stage not in ("plan", "doctor"), ("cluster.speed.*",),
        "only stage=plan with rehearse=true or search=true, and stage=doctor check=cluster, read it", "Use one of them",
        typed_only=True,
    ),
    Rule(
        lambda s: s.stage == "plan" and not s.plan.rehearse, ("plan.ranks",), "nothing is rehearsed", "Give rehearse=true",
        neutral=([],), typed_only=True,
    ),
    Rule(
        lambda s: s.stage == "plan" and not s.plan.rehearse and not s.plan.search, ("cluster.speed.*",),
        "nothing is rehearsed or searched", "Give rehearse=true or search=true", typed_only=True,
    ),
    Rule(
        lambda s: s.stage == "plan" and s.plan.lengths is None, ("plan.engines", "plan.decode_ms", "plan.actor_s"),
        "nothing is simulated", "Give plan.lengths", neutral=([], None), typed_only=True,
    ),
    Rule(
        lambda s: s.stage in ("all", "plan", "compare"), ("evaluate.checkpoint",),
        "stage={s.stage} evaluates before and after training", "Use stage=evaluate", neutral=("auto",), typed_only=True,
    ),
    Rule(
        lambda s: s.stage in ("all", "plan", "compare") and s.rl.min_pass_rate is None and s.rl.max_pass_rate is None,
        ("rollout.offline_*",), "stage={s.stage} does not include stage=rollout", "Use stage=rollout", typed_only=True,
    ),
)  # fmt: skip
"""What the stage that was asked for decides."""

RUN_RULES = (
    # The objective
    Rule(_custom, ("algo.loss",), "algo.import_path={s.algo.import_path} is the loss", "Remove algo.import_path"),
    Rule(
        _static, ("algo.alpha", "algo.beta"), "algo.loss={s.algo.loss} uses static bounds", "Use algo=etr", neutral=(0.0,),
    ),
    Rule(
        _static, ("algo.h", "algo.k", "algo.scale_*", "algo.eps_low_max", "algo.elastic_side"),
        "algo.loss={s.algo.loss} uses static bounds", "Use algo=etr", neutral=("both",),
    ),
    Rule(
        _loss_is(*NEIGHBOURS), ("algo.alpha", "algo.beta"), "algo.loss={s.algo.loss} has its own bounds", "Use algo=etr",
        neutral=(0.0,),
    ),
    Rule(
        _loss_is(*NEIGHBOURS), ("algo.h", "algo.k", "algo.scale_*", "algo.eps_low_max", "algo.elastic_side"),
        "algo.loss={s.algo.loss} has its own bounds", "Use algo=etr", neutral=("both",),
    ),
    *(
        Rule(_unread(name), (f"algo.{name}_*",), "algo.loss={s.algo.loss} does not read it", f"Use algo={name}")
        for name in NEIGHBOURS
    ),
    Rule(
        lambda s: _loss_is("sapo")(s) and not s.rl.counterfactual, ("algo.eps_low", "algo.eps_high"),
        "algo.loss=sapo has a gate and no bounds", "Use algo.sapo_tau_positive",
    ),
    Rule(
        _loss_is("cispo", "gspo"), ("algo.eps_low", "algo.eps_high"), "algo.loss={s.algo.loss} has its own bounds",
        "Use algo.{s.algo.loss}_eps_high",
    ),
    Rule(_loss_is("cispo"), ("algo.eps_low_max",), "algo.loss=cispo has no lower bound", "Use algo=etr"),
    Rule(
        _loss_is("cispo", "sapo", "abc_grpo"), ("algo.dual_clip",), "algo.loss={s.algo.loss} does not clip the surrogate",
        "Use algo=etr", neutral=(None,),
    ),
    Rule(_loss_is_not("cispo"), ("algo.cispo_*",), "algo.loss={s.algo.loss} does not read it", "Use algo=cispo"),
    Rule(_loss_is_not("gspo"), ("algo.gspo_*",), "algo.loss={s.algo.loss} does not read it", "Use algo=gspo"),
    Rule(
        lambda s: not _custom(s) and s.algo.k == "none", ("algo.beta",), "algo.k=none means no macro term",
        "Use algo.k=variance", neutral=(0.0,),
    ),
    Rule(
        lambda s: not _custom(s) and s.algo.alpha == 0, ("algo.h",), "algo.alpha=0 means no micro term",
        "Give algo.alpha above 0",
    ),
    Rule(
        lambda s: not _custom(s) and s.algo.beta == 0, ("algo.k",), "algo.beta=0 means no macro term",
        "Give algo.beta above 0", neutral=("none",),
    ),
    Rule(
        lambda s: _rigid(s) and s.algo.scale_min <= 1 <= s.algo.scale_max, ("algo.scale_*", "algo.eps_low_max"),
        "without elasticity (algo.alpha={s.algo.alpha:g}, algo.beta={s.algo.beta:g}, algo.k={s.algo.k}) the bounds are not"
        " scaled", "Give algo.alpha or algo.beta above 0",
    ),
    Rule(
        _rigid, ("algo.elastic_side",), "algo.alpha=0 and no macro term mean that no bounds are elastic",
        "Give algo.alpha or algo.beta above 0", neutral=("both",),
    ),
    Rule(
        lambda s: s.algo.kl_coef == 0, ("algo.kl", "algo.kl_clamp"), "algo.kl_coef=0 means no KL term",
        "Give algo.kl_coef above 0", neutral=(None,),
    ),
    Rule(
        lambda s: s.algo.normalize != "std", ("algo.std_ddof",), "algo.normalize={s.algo.normalize} divides by no std",
        "Use algo.normalize=std",
    ),
    Rule(
        lambda s: s.algo.is_weight == "off", ("algo.is_cap", "algo.is_form", "algo.is_floor"), "algo.is_weight=off",
        "Use algo.is_weight=on", neutral=(None, "tis"),
    ),
    Rule(
        lambda s: s.algo.is_form != "icepop", ("algo.is_floor",), "algo.is_form={s.algo.is_form} has no lower limit",
        "Use algo.is_form=icepop",
    ),
    Rule(
        lambda s: s.rl.old_logprobs == "engine", ("algo.is_cap", "algo.is_form", "algo.is_floor"),
        "rl.old_logprobs=engine makes every importance weight 1", "Use rl.old_logprobs=actor", neutral=(None, "tis"),
    ),
    # Data
    Rule(
        lambda s: s.data.source == "arithmetic",
        ("data.path", "data.eval", "data.eval_folder", "data.eval_path*", "data.sft_path", "data.split",
         "data.eval_split", "data.limit", "data.columns.*", "data.vocab_size", "data.clean.*"),
        "data.source=arithmetic reads no files", "Use data=math", neutral=([], {}, None),
    ),
    Rule(
        lambda s: s.data.source == "files", ("data.arithmetic.*",), "data.source=files generates no problems",
        "Use data=arithmetic",
    ),
    Rule(
        lambda s: s.data.tokenizer == "model", ("data.vocab_size",), "data.tokenizer=model trains no tokenizer",
        "Use data.tokenizer=sentencepiece",
    ),
    Rule(
        lambda s: not s.data.eval_path, ("data.clean.decontaminate_*", "data.eval_split"),
        "no evaluation set is given", "Give data.eval=<file>",
    ),
    Rule(
        lambda s: not READY_SETS.keys() & {*s.data.eval}, ("data.eval_folder",), "data.eval names no known set",
        "Use data.eval=aime24",
    ),
    Rule(
        lambda s: _files([*s.data.path, *s.data.sft_path]), ("data.split",), "only folders have splits, and data.path names"
        " files", "Name a dataset folder",
    ),
    Rule(
        lambda s: _files(s.data.eval_path.values()), ("data.eval_split",), "only folders have splits, and data.eval_path"
        " names files", "Name a dataset folder",
    ),
    Rule(
        lambda s: s.data.template == "bare", ("data.instruction",), "data.template=bare shows the problem alone",
        "Use data.template=plain",
    ),
    # Supervised warm-up
    Rule(
        lambda s: not s.sft.enabled, ("sft.*",), "sft.enabled=false", "Use sft.enabled=true", but=("sft.enabled",),
    ),
    Rule(
        lambda s: not s.sft.enabled and s.data.tokenizer == "model", ("data.sft_path",), "sft.enabled=false",
        "Use sft.enabled=true",
    ),
    Rule(
        lambda s: not s.sft.enabled or all(phase.rows != "sft_mixed" for phase in s.sft.phases),
        ("data.arithmetic.sft_mixed_rows", "data.arithmetic.mixed_direct_share", "data.arithmetic.slip_share"),
        "no warm-up phase uses the rows sft_mixed", "Give sft.phases.<number>.rows=sft_mixed",
    ),
    # Reinforcement learning
    Rule(
        lambda s: s.rl.optimizer.decay == "constant", ("rl.optimizer.min_lr",), "rl.optimizer.decay=constant",
        "Use rl.optimizer.decay=linear",
    ),
    Rule(
        lambda s: not s.rl.optimizer.precision_aware, ("rl.optimizer.moments",), "Adam's moments are fp32",
        "Use rl.optimizer.precision_aware=true", neutral=("fp32",),
    ),
    Rule(
        lambda s: not s.algo.dynamic_sampling, ("rl.dynamic_sampling_rounds",), "algo.dynamic_sampling=false",
        "Use algo.dynamic_sampling=true",
    ),
    Rule(
        lambda s: s.rl.async_depth >= s.rl.steps, ("rl.async_depth",),
        "no batch of rl.steps={s.rl.steps} can be that old", "Give a smaller one",
    ),
    Rule(
        lambda s: s.rl.recompute != "selective", ("rl.recompute_modules",), "rl.recompute={s.rl.recompute} names no parts of a"
        " layer", "Use rl.recompute=selective", neutral=([],),
    ),
    Rule(
        lambda s: s.rl.recompute != "full", ("rl.recompute_method", "rl.recompute_layers"),
        "rl.recompute={s.rl.recompute} runs no whole layers again", "Use rl.recompute=full",
    ),
    Rule(
        lambda s: s.model.experts.count == 0, ("rl.routing_replay", "rl.grouped_experts"), "the model has no experts",
        "Use model=30b-a3b", neutral=("none", False),
    ),
    Rule(
        lambda s: s.rl.routing_replay == "actor" and s.rl.minibatches * s.rl.epochs == 1, ("rl.routing_replay",),
        "rl.minibatches x rl.epochs = 1, so the update makes the choices of the pass of old log-probs anyway",
        "Give rl.minibatches or rl.epochs above 1",
    ),
    Rule(
        _alone, ("rl.overlap_param_gather",), "each rank has a part of the model of its own, so none gathers weights from"
        " another", "Use more ranks than layout.tp x layout.pp", neutral=(False,), typed_only=True,
    ),
    Rule(
        lambda s: chosen_engine(s) == "vllm" and s.rollout.mode != "colocated", ("rl.offload",),
        "rollout.mode={s.rollout.mode} generates on other devices", "Use rollout.mode=colocated", neutral=([],),
    ),
    Rule(
        lambda s: s.rl.eval_every > s.rl.steps, ("rl.eval_every",), "it is above rl.steps={s.rl.steps}, so no step evaluates",
        "Give a smaller one",
    ),
    Rule(
        lambda s: s.rl.old_logprobs == "auto" and s.rl.minibatches * s.rl.epochs == 1, ("rl.counterfactual",),
        "rl.minibatches x rl.epochs = 1, so every ratio is 1 and no bound cuts", "Give rl.minibatches or rl.epochs above 1",
        neutral=(False,),
    ),
    Rule(
        lambda s: s.rl.export_every > s.rl.steps, ("rl.export_every",),
        "it is above rl.steps={s.rl.steps}, so no step exports", "Give a smaller one",
    ),
    Rule(
        lambda s: not {*s.tracking.to} - {"tensorboard"}, ("tracking.project",), "tracking={s.tracking.to} lists no projects",
        "Use tracking=wandb",
    ),
    Rule(
        lambda s: all(step > s.rl.steps for step in s.profile.steps), ("profile.steps",),
        "no step of them is up to rl.steps={s.rl.steps}", "Give smaller ones", neutral=([],),
    ),
    # Rollouts
    Rule(
        lambda s: s.rollout.partial_tokens >= s.rollout.max_new_tokens, ("rollout.partial_tokens",),
        "a round of that many tokens ends every response of rollout.max_new_tokens={s.rollout.max_new_tokens}",
        "Give a smaller one",
    ),
    Rule(
        _native,
        ("rollout.mode", "rollout.server_*", "rollout.gpu_memory_share", "rollout.sync_bucket_mib", "layout.rollout_tp"),
        "only vLLM reads it, and {engine}", "Use rollout.engine=vllm",
    ),
    Rule(
        _colocated, ("rollout.server_*",), "rollout.mode=colocated has no servers", "Use rollout.mode=standalone",
    ),
    Rule(
        _served, ("rollout.server_*", "rollout.gpu_memory_share", "rollout.kv_memory_gib"),
        "with rollout.mode=serve that is decided where the servers are started", "Use rollout.mode=standalone",
        but=("rollout.server_urls",),
    ),
    Rule(
        lambda s: _vllm_in(s, "standalone"), ("rollout.server_urls",), "rollout.mode=standalone servers come to"
        " rollout.server_address", "Use rollout.mode=serve", neutral=([],),
    ),
    Rule(
        lambda s: _colocated(s) and not uses_gpus(s.cluster), ("rollout.gpu_memory_share",),
        "vLLM runs on the CPU (cluster.device={s.cluster.device})", "Use rollout.kv_memory_gib",
    ),
    Rule(
        lambda s: _colocated(s) and uses_gpus(s.cluster), ("rollout.kv_memory_gib",),
        "vLLM on a GPU takes rollout.gpu_memory_share of its memory ({engine})", "Use rollout.gpu_memory_share",
    ),
    Rule(
        lambda s: _native(s) and s.rollout.temperature != 1 and (s.rollout.top_p < 1 or s.rollout.top_k > 0),
        ("rollout.gap_limit",),
        "with top_p or top_k the gap is checked at rollout.temperature=1 alone", "Use rollout.temperature=1",
    ),
    Rule(
        lambda s: s.rollout.temperature == 0, ("rollout.top_p", "rollout.top_k"), "rollout.temperature=0 is greedy",
        "Give rollout.temperature above 0", neutral=(1.0, 0),
    ),
    Rule(
        lambda s: "overlong" not in s.verify.rewards and not any(":" in name for name in s.verify.rewards),
        ("verify.overlong_buffer",), "verify.rewards does not have overlong", "Use verify.rewards.overlong=1",
    ),
    Rule(
        lambda s: s.verify.judge is None, ("verify.judge_*",), "verify.judge names no server", "Give verify.judge=http://host:port",
    ),
    # The report
    Rule(
        lambda s: s.report.audit_rows == 0, ("report.peer_python",), "report.audit_rows=0 makes no audit",
        "Give report.audit_rows above 0", neutral=(None,),
    ),
    # Model and machines
    Rule(
        lambda s: not uses_gpus(s.cluster), ("model.backend",), "layers on the CPU are always local", "Use cluster.device=cuda",
        neutral=("auto", "te"),  # te is refused when a stage starts
    ),
    Rule(
        lambda s: s.model.rope.scaling == "none", ("model.rope.*",), "model.rope.scaling=none",
        "Use model.rope.scaling=llama3", but=("model.rope.theta", "model.rope.scaling"),
    ),
    Rule(
        lambda s: s.model.experts.count == 0, ("model.experts.*",), "model.experts.count=0 means a dense model",
        "Give model.experts.count", but=("model.experts.count",),
    ),
    Rule(
        lambda s: s.model.path is not None, ("model.init_std",), "the weights come from model.path", "Remove model.path",
    ),
    Rule(
        lambda s: True, ("model.layouts.*",), "cluster.nnodes={s.cluster.nnodes} uses another entry of model.layouts",
        "Use layout.*", but=("model.layouts.{nodes}.*",), typed_only=True,
    ),
    Rule(
        lambda s: s.cluster.nnodes == 1, ("cluster.master_addr", "cluster.master_port"), "a single node (cluster.nnodes=1)"
        " meets nobody", "Give cluster.nnodes", typed_only=True,
    ),
    Rule(
        lambda s: s.cluster.nnodes == 1 and s.rollout.mode == "colocated", ("cluster.interface",),
        "a single node (cluster.nnodes=1) meets nobody", "Give cluster.nnodes", neutral=(None,), typed_only=True,
    ),
)  # fmt: skip
"""What the settings of a run decide, whichever stage is asked for."""


def dead_keys(settings: Settings, given: dict[str, str]) -> dict[str, str]:
    """The user's keys that have no effect -> a message for each. For stage=compare this is asked of each arm instead.

    Args:
        given: dotted key -> where the user gave it: `TYPED`, or the name of a preset file.
    """
    whole_run = settings.stage not in ("test", "doctor", "bench", "compare")
    rules = [rule for rule in (*STAGE_RULES, *(RUN_RULES if whole_run else ())) if rule.when(settings)]
    nodes = max((n for n in settings.model.layouts if n <= settings.cluster.nnodes), default=0)
    typed = {key: origin for key, origin in given.items() if origin == TYPED}
    if "cluster.nnodes" in typed:  # job scripts state the node count and the address, also when they start one node
        typed = {key: origin for key, origin in typed.items() if not key.startswith("cluster.master_")}
    messages: dict[str, str] = {}
    for rule in rules:
        for key, origin in (typed if rule.typed_only else given).items():
            value = _value(settings, key)
            but = tuple(pattern.format(nodes=nodes) for pattern in rule.but)
            if _matches(key, rule.keys) and not _matches(key, but) and value not in rule.neutral:
                why = rule.why.format(s=settings, engine=why_chosen(settings))
                place = "" if origin == TYPED else f" (from {origin})"
                cure = f"{rule.cure.format(s=settings)}, or remove the key." if rule.cure else "Remove the key."
                messages.setdefault(key, f"{key}{_shown(value)}{place} has no effect: {why}. {cure}")
    return messages


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _value(settings: Settings, key: str) -> Any:
    """The resolved value at a key; None if the key names something that is not there."""
    node: Any = settings
    for part in split_key(key):
        if isinstance(node, dict):
            node = node.get(part, node.get(int(part)) if part.isdigit() else None)  # model.layouts has numbers as keys
        elif isinstance(node, list):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        else:
            node = getattr(node, part, None)
    return node


def _shown(value: Any) -> str:
    """`=value`, as it is typed; empty for what cannot be typed in a few words."""
    if isinstance(value, bool):
        return f"={str(value).lower()}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return f"={','.join(value)}"
    if isinstance(value, float):
        return f"={value:g}"
    return f"={value}" if isinstance(value, str | int) else ""
