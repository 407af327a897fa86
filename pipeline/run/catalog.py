"""The stages: how each is started, what it reads and writes, and which settings its result depends on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.common.benches import BENCHES
from pipeline.common.errors import UsageError
from pipeline.settings import Settings

Launcher = Literal["plain", "torchrun", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. Paths are relative to the run's folder; `x@latest` is a checkpoint folder's newest iteration."""

    name: str
    launcher: Launcher
    settings: tuple[str, ...]
    """Sections or keys that its result depends on; a finished stage runs again if one of them has changed."""
    after: tuple[str, ...] = ()
    """Earlier stages whose outputs it reads."""
    outputs: tuple[str, ...] = ()
    """What it must write."""
    also: tuple[str, ...] = ()
    """What it may write."""
    resumes: tuple[str, ...] = ()
    """What a killed one continues from; moved aside, never deleted, when the stage starts from the beginning."""
    guarded: bool = False
    """Holds days of work; moved aside only with force=true. Changed settings are refused."""
    stops: bool = False
    """Asks `StageRun.should_stop`: the first Ctrl-C lets it finish its step and save."""
    uses_layout: bool = False
    """Builds the Megatron actor, so the layout must fit the ranks."""
    binding: tuple[str, ...] = ()
    """Settings that decide what it leaves. A later stage that has others in force must not read it."""


MODEL = (
    "model.family", "model.path", "model.num_layers", "model.hidden_size", "model.ffn_hidden_size",
    "model.num_attention_heads", "model.num_query_groups", "model.head_dim", "model.vocab_size", "model.rope",
    "model.max_position_embeddings", "model.norm_eps", "model.tie_word_embeddings", "model.qkv_bias", "model.qk_norm",
    "model.experts", "model.init_std",
)  # fmt: skip
"""What a model's weights and outputs depend on; not the layout, because checkpoints reshard."""

GRADING = ("verify",)
"""What verdicts and rewards depend on."""

SHAPE = tuple(key for key in MODEL if key not in ("model.max_position_embeddings", "model.init_std"))
"""What weights are made for; a later stage may use a shorter context."""

PROMPTS = ("data.template", "data.instruction", "data.system_prompt")
"""How a problem becomes a prompt. Problems are kept as text, so every stage that shows them to a model depends on it."""

SAMPLING = ("rollout.max_prompt_tokens", "rollout.max_new_tokens", "rollout.stop")

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="preprocess",
            launcher="plain",
            settings=("data", "seed", "model.path", "model.vocab_size", "rollout.max_prompt_tokens"),
            binding=("data",),
            outputs=("preprocess/train.jsonl",),
            also=("preprocess/sft.jsonl", "preprocess/sft_mixed.jsonl", "preprocess/eval", "preprocess/tokenizer"),
        ),
        Stage(
            name="sft",
            launcher="deepspeed",
            settings=("sft", "seed", "model.dtype", *PROMPTS, *MODEL),
            binding=(
                "sft.phases",
                "sft.batch_size",
                "sft.sequence_length",
                "sft.warmup_steps",
                "sft.weight_decay",
                "sft.clip_grad",
                *SHAPE,
            ),
            after=("preprocess",),
            outputs=("sft/hf",),
            resumes=("sft/checkpoints", "sft/metrics.jsonl"),
            stops=True,
        ),
        Stage(
            name="convert",
            launcher="torchrun",
            settings=("sft.enabled", "seed", "model.dtype", *MODEL),  # the seed: of random weights, without a warm-up
            binding=("sft.enabled", *SHAPE),
            after=("sft",),
            outputs=("convert@latest",),
            also=("convert/hf",),
            uses_layout=True,
        ),
        Stage(
            name="rollout",
            launcher="torchrun",
            settings=("rollout", "seed", "model.dtype", *GRADING, *PROMPTS, *MODEL),
            binding=SHAPE,
            after=("preprocess", "convert"),
            outputs=("rollout/pass_rates.jsonl",),
            also=("rollout/shards",),
            resumes=("rollout/shards",),
            stops=True,
            uses_layout=True,
        ),
        Stage(
            name="rl",
            launcher="torchrun",
            settings=("algo", "rl", "rollout", "seed", "model.dtype", *GRADING, *PROMPTS, *MODEL),
            binding=SHAPE,
            after=("preprocess", "convert"),
            outputs=("checkpoints@latest",),
            also=("metrics.jsonl",),
            resumes=("checkpoints", "metrics.jsonl", "samples.jsonl", "samples", "exports", "tensorboard"),
            guarded=True,
            stops=True,
            uses_layout=True,
        ),
        Stage(
            name="evaluate",
            launcher="torchrun",
            settings=("evaluate", "seed", "rollout.engine", "model.dtype", *SAMPLING, *GRADING, *PROMPTS, *MODEL),
            after=("preprocess", "convert"),
            outputs=("evaluate/{variant}.json",),
            uses_layout=True,
        ),
        Stage(
            name="export",
            launcher="torchrun",
            settings=("export", "model.dtype", *MODEL),
            after=("rl",),
            outputs=("export/hf",),
            uses_layout=True,
        ),
        Stage(name="replay", launcher="torchrun", settings=("replay",), after=("convert",), uses_layout=True),
        Stage(
            name="report",
            launcher="plain",
            settings=("report", *GRADING),
            outputs=("report.html",),
            also=("audit.html",),
        ),
        Stage(name="compare", launcher="plain", settings=("compare",)),
        Stage(name="bench", launcher="plain", settings=("bench",)),
        Stage(name="doctor", launcher="plain", settings=()),
    )
}

LONGEST_LABEL = 60
"""Characters of sets' names in the name of a result."""

IRRELEVANT = frozenset(
    {
        "data.eval", "data.eval_folder",  # data.eval_path holds what they mean
        "rl.save_every", "rl.keep_checkpoints", "rl.keep_best", "rl.max_skipped", "rl.sample_rollouts", "rl.counterfactual",
        "rl.keep_samples", "rl.export_every", "rl.async_save", "sft.max_skipped",
        "rl.recompute", "rl.recompute_modules", "rl.recompute_method", "rl.recompute_layers", "rl.offload",
        "rl.overlap_grad_reduce", "rl.overlap_param_gather", "rl.optimizer.cpu_offload", "rl.optimizer.distributed",
        "verify.workers", "verify.memory_gib", "verify.cache_size", "verify.judge", "verify.judge_concurrent",
        "rollout.max_concurrent", "rollout.kv_memory_gib", "rollout.gpu_memory_share", "rollout.sync_bucket_mib",
        "rollout.server_restarts",
    }
)  # fmt: skip
"""Settings in the sections above that no result depends on. `verify.judge_model` says who judges; its server may move."""

HARMLESS = frozenset(
    {
        "rl.steps", "rl.eval_every", "rl.dynamic_sampling_rounds", "rollout.offline_group_size",
        "rollout.offline_shard_prompts", "rollout.offline_split",
    }
)  # fmt: skip
"""May differ between the checkpoints of an RL run and its continuation."""

ORDER = ("preprocess", "sft", "convert", "evaluate:before", "rl", "export", "evaluate:after", "report")
"""What `stage=all` runs."""


def within(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of `keys`, or lies in one that is a section."""
    return any(key == outer or key.startswith(f"{outer}.") for outer in keys)


@dataclass(frozen=True)
class Job:
    """A stage to run, with its resolved settings."""

    stage: Stage
    settings: Settings
    variant: str | None = None
    """`before` or `after` for evaluate, which keeps a result of each."""

    @property
    def launcher(self) -> Launcher:
        """As the catalog says; benchmarks of distributed code need ranks."""
        if self.stage.name == "bench":
            return "torchrun" if BENCHES[self.settings.bench.what].needs_ranks else "plain"
        return self.stage.launcher

    @property
    def on_every_node(self) -> bool:
        """Whether each node runs it: what has ranks does, and the check of the nodes themselves."""
        nodes_check = self.stage.name == "doctor" and self.settings.doctor.check == "cluster"
        return self.launcher != "plain" or nodes_check

    @property
    def label(self) -> str:
        return self.stage.name + (f" ({self.variant})" if self.variant else "")

    @property
    def chosen_checkpoint(self) -> str | None:
        """What evaluate or export is to read: before, after, or a folder; None for other stages."""
        chosen = {"evaluate": self.settings.evaluate.checkpoint, "export": self.settings.export.checkpoint}
        return chosen.get(self.stage.name)

    @property
    def after(self) -> tuple[str, ...]:
        """Earlier stages that this job reads, under its settings."""
        names = list(self.stage.after)
        origin = self.chosen_checkpoint
        if self.stage.name == "evaluate" and origin == "after":
            names = ["preprocess", "rl"]
        elif self.stage.name == "evaluate" and origin != "before":
            names = [
                "preprocess",
                "convert",
            ]  # convert has the config and tokenizer with which the user's folder is read
        elif self.stage.name == "export" and origin != "after":
            names = ["convert"]
        if self.stage.name == "rl" and (self.settings.rl.min_pass_rate, self.settings.rl.max_pass_rate) != (None, None):
            names.append("rollout")
        if self.stage.name == "evaluate" and self.settings.evaluate.other_sets:
            names.remove("preprocess")  # it prepares the sets itself
        if "sft" in names and not self.settings.sft.enabled:
            names.remove("sft")
            names.append("preprocess")  # the tokenizer, and with it the vocabulary of a randomly initialized model
        return tuple(names)

    @property
    def outputs(self) -> tuple[str, ...]:
        if self.stage.name == "preprocess" and self.settings.data.only_evaluates:
            return ("preprocess/eval",)
        return tuple(path.format(variant=self.variant) for path in self.stage.outputs)


def variant_of(settings: Settings) -> str:
    """The name under which an evaluation's result is kept: before, after, or the name of the evaluated folder. Sets that are
    not the run's own follow it: `after.aime24+math500`."""
    chosen = settings.evaluate.checkpoint
    name = chosen.rstrip("/").rpartition("/")[2]
    if not name:
        raise UsageError(f"evaluate.checkpoint={chosen}: allowed is before, after, auto, or a folder.")
    if not settings.evaluate.other_sets:
        return name
    sets = sorted(settings.data.eval_path)
    label = "+".join(sets)
    if len(label) > LONGEST_LABEL:
        label = f"{sets[0][:LONGEST_LABEL]}+{len(sets) - 1}-others-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
    return f"{name}.{label}"
