"""What is checked before anything runs: everything that a run would find out later from its settings alone.

A dry run and a plan make the same checks. What depends on the machine (devices, ports, installed packages) is left to the
start of a stage, because a plan may be made for another machine.
"""

import re
from pathlib import Path

from pipeline.common.errors import InputError, UsageError
from pipeline.common.names import nearest, unknown
from pipeline.run import manifests, plan
from pipeline.run.catalog import Job
from pipeline.run.imports import check_function
from pipeline.settings import Rollout, Settings, levers
from pipeline.settings.algo import SEQUENCE
from pipeline.settings.engine import chosen_engine, not_on_gpus, uses_gpus


def check(job: Job, root: Path) -> None:
    """Checks one job.

    Raises:
        UsageError: settings that cannot work, each with its key, value and what is allowed.
        InputError: a file that the user named is missing.
    """
    settings, stage = job.settings, job.stage.name
    if job.stage.uses_layout:
        plan.check(settings)
    if stage == "preprocess" and settings.data.source == "files":
        check_problems(settings)
    if stage == "sft" and settings.sft.enabled:
        check_warm_up(settings)
    if stage == "rl":
        check_training(settings)
    if stage == "rollout":
        check_split(settings, root)
    if stage in ("rollout", "rl", "evaluate"):
        for name in settings.verify.rewards:
            if ":" in name:
                check_function("verify.rewards", name)
    if stage in ("rl", "evaluate"):
        check_samples(settings)
    check_checkpoint(job)


def check_problems(settings: Settings) -> None:
    """Refuses one file for training and evaluation, and an evaluation set whose name is no file name. A plan may be made before
    there are any problems."""
    data = settings.data
    same = {path: name for name, path in data.eval_path.items() if path in data.path}
    for path, name in same.items():
        raise UsageError(
            f"{path} is given for training (data.path) and for evaluation ({name}), so all its problems would be dropped from "
            "training. Give other problems to train on; to measure a model without training: stage=evaluate data.eval=<file>"
        )
    for name in data.eval_path:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(f"data.eval_path.{name}: an evaluation set's name has letters, digits, _, - and . only")


def check_samples(settings: Settings) -> None:
    """Raises `UsageError` if `evaluate.k_of` names a set that the run does not have."""
    names = ["held_out"] if settings.data.source == "arithmetic" else list(settings.data.eval_path)
    wrong = [name for name in settings.evaluate.k_of if name not in names]
    if wrong and names:  # without names the sets are those that preprocess made
        raise UsageError(unknown("evaluate.k_of", wrong[0], names))


def check_warm_up(settings: Settings) -> None:
    """Raises `UsageError` if the warm-up's batch cannot be shared by its ranks, its weights and optimizer do not fit on a
    device, or one of its files will be empty."""
    plan.check_warm_up(settings)
    sft, ranks = settings.sft, plan.world_size(settings)
    if sft.batch_size % ranks:
        raise UsageError(
            f"sft.batch_size={sft.batch_size} rows cannot be shared evenly by {ranks} ranks. Give a multiple of {ranks}."
        )
    made = {"sft": settings.data.arithmetic.sft_rows, "sft_mixed": settings.data.arithmetic.sft_mixed_rows}
    for number, phase in enumerate(sft.phases):
        if settings.data.source == "arithmetic" and not made[phase.rows]:
            raise UsageError(
                f"sft.phases.{number}.rows={phase.rows}, but data.arithmetic.{phase.rows}_rows=0 makes no such rows. Raise it,"
                " or remove the phase."
            )


def check_training(settings: Settings) -> None:
    """Raises if reinforcement learning cannot work with these settings, or the user's loss does not exist."""
    algo = settings.algo
    if settings.rollout.temperature == 0:
        raise UsageError(
            "rollout.temperature=0: training needs responses that differ, and greedy ones are all equal. Give a value above 0."
        )
    if settings.rl.token_head == "fused" and algo.import_path is None and algo.loss in SEQUENCE:
        raise UsageError(
            f"rl.token_head=fused: algo.loss={algo.loss} mixes the tokens of a sequence. Use rl.token_head=recompute or auto."
        )
    if algo.import_path is not None:
        check_function("algo.import_path", algo.import_path)
    if "weights" in settings.rl.offload and chosen_engine(settings) == "native":
        raise UsageError(
            "rl.offload=weights: the native engine generates from the actor's own weights. Use rl.offload=gradients,optimizer,"
            " or rollout.engine=vllm."
        )
    rollout = settings.rollout
    changed = [f"rollout.{key}={value}" for key, value in _not_raw(rollout)]
    if changed and chosen_engine(settings) == "vllm" and rollout.mode == "serve":
        raise UsageError(
            f"{', '.join(changed)}: with rollout.mode=serve a server gives log-probs of the distribution sampled from, and"
            " training also needs those of the policy itself. Use rollout.temperature=1, rollout.top_p=1 and rollout.top_k=0,"
            " or rollout.mode=standalone. Evaluation may have its own (evaluate.temperature, evaluate.top_p)."
        )
    if rollout.partial_tokens and rollout.stop and chosen_engine(settings) != "native":
        raise UsageError(
            f"rollout.stop={rollout.stop} with rollout.partial_tokens={rollout.partial_tokens}: vLLM does not"
            " see a stop string that begins in one round and ends in the next. Use rollout.engine=native, or"
            " rollout.partial_tokens=0."
        )
    check_routing(settings)
    check_transformer_engine(settings)
    if settings.rl.grouped_experts and settings.model.dtype == "fp32" and uses_gpus(settings.cluster):
        raise UsageError(
            "rl.grouped_experts=true with model.dtype=fp32: on GPUs the grouped product takes bf16 alone. Use model.dtype=bf16,"
            " or rl.grouped_experts=false."
        )
    check_modules(settings)


def check_transformer_engine(settings: Settings) -> None:
    """Raises `UsageError` for a lever of Transformer Engine's where its layers cannot be, or cannot take this model."""
    model = settings.model
    levers.check_transformer_engine(levers.of_transformer_engine(settings.rl), model, not_on_gpus(settings.cluster))
    widths = (model.hidden_size, model.ffn_hidden_size, model.experts.ffn_hidden_size)
    if settings.rl.fp8 != "none" and any(width // settings.layout.tp % 32 for width in widths):
        raise UsageError(
            f"rl.fp8={settings.rl.fp8}: FP8 products need widths that layout.tp={settings.layout.tp} cuts into multiples of 32;"
            f" this model has {', '.join(map(str, widths))}. Use rl.fp8=none."
        )


def check_routing(settings: Settings) -> None:
    """Raises `UsageError` if `rl.routing_replay` asks for choices of experts that nobody records."""
    replayed = settings.rl.routing_replay
    if replayed == "none":
        return
    where = f"rl.routing_replay={replayed}"
    if settings.model.experts.count > 255:
        raise UsageError(
            f"{where}: choices are kept in one byte, and model.experts.count={settings.model.experts.count}."
        )
    if replayed == "actor" and settings.rl.old_logprobs == "engine":
        raise UsageError(
            f"{where} uses the choices of the pass of old log-probs, and rl.old_logprobs=engine makes none. Use"
            " rl.old_logprobs=actor."
        )
    if replayed == "engine" and chosen_engine(settings) != "native":
        raise UsageError(
            f"{where}: this project reads no choices of experts from vLLM. Use rl.routing_replay=actor, or"
            " rollout.engine=native."
        )
    if replayed == "engine" and settings.rollout.partial_tokens:
        raise UsageError(
            f"{where} with rollout.partial_tokens={settings.rollout.partial_tokens}: each round computes the beginning of a"
            " response again, with other experts than those that sampled it. Use rl.routing_replay=actor, or"
            " rollout.partial_tokens=0."
        )


def check_modules(settings: Settings) -> None:
    """Raises `UsageError` if `rl.recompute=selective` names a part that the layers do not have."""
    if settings.rl.recompute != "selective":
        return
    has_experts = settings.model.experts.count > 0
    wrong, what = (("mlp",), "experts in the place of the MLP") if has_experts else (("moe",), "no experts")
    for name in levers.recomputed_modules(settings.model, settings.rl.recompute_modules):
        if name in wrong:
            raise UsageError(f"rl.recompute_modules={name}: the layers of this model have {what}.")


def check_split(settings: Settings, root: Path) -> None:
    """Raises `UsageError` if `rollout.offline_split` names neither the training problems nor an evaluation set."""
    data, split = settings.data, settings.rollout.offline_split
    named = ["held_out"] if data.source == "arithmetic" else list(data.eval_path)
    made = [file.stem for file in (root / "preprocess" / "eval").glob("*.jsonl")]
    names = ["train", *sorted({*named, *made})]
    if split not in names:
        raise UsageError(unknown("rollout.offline_split", split, names))


def check_checkpoint(job: Job) -> None:
    """Raises if the checkpoint that evaluate or export is to read is a misspelled word or a folder that is not there."""
    chosen = job.chosen_checkpoint
    if chosen is None or chosen in manifests.WORDS:
        return
    if Path(chosen).is_dir():
        if manifests.latest_iteration(Path(chosen)) is None:
            raise InputError(
                f"{job.stage.name}.checkpoint={chosen} holds no {manifests.TRACKER}. Give the folder of a Megatron checkpoint."
            )
        return
    key = f"{job.stage.name}.checkpoint"
    guess = nearest(chosen, manifests.WORDS) if "/" not in chosen else None
    hint = f" Did you mean {key}={guess}?" if guess else ""
    text = (
        f"{key}={chosen}: there is no such folder.{hint} Allowed: {', '.join(manifests.WORDS)}, or a checkpoint folder."
    )
    raise UsageError(text) if guess else InputError(text)


def _not_raw(rollout: Rollout) -> list[tuple[str, float]]:
    """The settings by which responses are not sampled from the policy as it is."""
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return [(key, value) for key, one in plain.items() if (value := getattr(rollout, key)) != one]
