"""Every change that this project makes to megatron-core, in one list: what upstream does, why it is wrong for us, when it
can go. `install()` applies what a process needs and refuses a megatron-core whose source no longer matches, before
anything of it is changed; `report()` is what `stage=doctor` prints.
"""

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_patches.upstream.cpu import hook
from megatron_patches.upstream.cpu.rules import IDIOM_COUNTS, LINES

PINNED = "0.16.1"


@dataclass(frozen=True)
class Replacement:
    """A part of megatron-core for which this project has its own.

    `expects` are pieces of the upstream file that must still stand there: the first is the reason for the replacement,
    stands on one line of its own, and is what `report` points at; others are seams that it uses. `elsewhere` are seams in
    other modules, `(module, piece)`.
    """

    name: str
    module: str
    expects: tuple[str, ...]
    ours: str
    reason: str
    elsewhere: tuple[tuple[str, str], ...] = ()

    def pieces(self) -> list[tuple[str, str]]:
        """Everything that must stand upstream, `(module, piece)`."""
        return [(self.module, piece) for piece in self.expects] + list(self.elsewhere)


REPLACEMENTS = (
    Replacement(
        name="policy-head",
        module="megatron.core.models.gpt.gpt_model",
        expects=("        logits, _ = self.output_layer(", "    def _postprocess("),
        ours="megatron_patches.model.policy_model.PolicyModel",
        reason="the last stage makes the logits of every position, V numbers each, before a loss can choose; ours hands "
        "the hidden states and the output weight to the policy head, which never holds them",
    ),
    Replacement(
        name="core-attention",
        module="megatron.core.transformer.dot_product_attention",
        expects=("Context parallelism is only supported by TEDotProductAttention!", "Packed sequence is not supported"),
        ours="megatron_patches.model.attention.SdpaCoreAttention",
        reason="the local attention refuses packed rows and context parallelism; ours does both with torch's "
        "scaled_dot_product_attention. Goes when transformer-engine runs everywhere",
    ),
    Replacement(
        name="rms-norm",
        module="megatron.core.transformer.torch_norm",
        expects=("assert not config.sequence_parallel",),
        ours="megatron_patches.model.norm.RMSNorm",
        reason="the torch norm refuses sequence parallelism, whose only need is a mark on the weight",
    ),
    Replacement(
        name="rope-scaling",
        module="megatron.core.models.common.embeddings.rotary_pos_embedding",
        expects=(
            "self.inv_freq = self._apply_scaling(self.inv_freq, factor=rope_scaling_factor)",
            "        original_max_position_embeddings=8192,",
        ),
        ours="megatron_patches.model.policy_model.stretch_low_frequencies",
        reason="of Llama 3.1's four numbers upstream takes the factor alone; ours takes all of them from model.rope",
    ),
    Replacement(
        name="adam",
        module="megatron.core.optimizer.distrib_optimizer",
        expects=('s["step"].item() for s in inner_state_dict["state"].values()', "HAVE_APEX_OR_TE = False"),
        elsewhere=(("megatron.core.optimizer", "USING_PYTORCH_OPTIMIZER = True"),),
        ours="megatron_patches.training.optimizer.FusedLikeAdam",
        reason="the distributed optimizer's checkpoints need an Adam that keeps `step` in the param group, as apex and "
        "transformer-engine do; torch's AdamW breaks them, in bf16 silently on resume. Only where neither is installed",
    ),
    Replacement(
        name="router-gemm",
        module="megatron.core.transformer.moe.moe_utils",
        expects=("if te_general_gemm is not None and router_dtype != torch.float64:",),
        ours="megatron_patches.model.policy_model (te_general_gemm = None)",
        reason="without transformer-engine the name is never bound, and the router's first forward is a NameError",
    ),
    Replacement(
        name="results-queue",
        module="megatron.core.dist_checkpointing.strategies.filesystem_async",
        expects=("_results_queue = ctx.Manager().Queue()", 'ctx = mp.get_context("spawn")'),
        ours="megatron_patches.model.checkpoint.save",
        reason="the queue of a synchronous save starts a spawned manager process that imports the entry script again: "
        "seconds at the first save, and a hang when that script has no __main__ guard",
    ),
    Replacement(
        name="safe-reading",
        module="megatron.core.dist_checkpointing.strategies.torch",
        expects=(
            "        fsr = _get_filesystem_reader(checkpoint_dir, cache_metadata=True)",
            "            planner=MCoreLoadPlanner(",
            "        fs_reader = _get_filesystem_reader(checkpoint_dir)",
        ),
        elsewhere=(
            ("megatron.core.dist_checkpointing.strategies.common", "    def load_common(self, checkpoint_dir"),
            (
                "megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader",
                "    def read_metadata(self) -> Metadata:",
            ),
        ),
        ours="megatron_patches.model.safe_reading.SafeReader",
        reason="torch unpickles a checkpoint's .metadata and object entries without limits, so a folder from elsewhere "
        "runs commands as it is read; ours knows only the classes that such files need and refuses any other by name",
    ),
    Replacement(
        name="global-loss",
        module="megatron.core.pipeline_parallel.schedules",
        expects=("output_tensor /= torch.clamp(num_tokens, min=1)", "if not config.calculate_per_token_loss:"),
        elsewhere=(
            ("megatron.core.distributed.distributed_data_parallel", "if config.calculate_per_token_loss:"),
            ("megatron.core.distributed.finalize_model_grads", "if num_tokens is not None:"),
        ),
        ours="megatron_patches.training.policy_loss.finalize_grads",
        reason="upstream averages over micro-batches and ranks; the policy loss carries its global denominator already, so "
        "gradients are summed: calculate_per_token_loss is on and finalize_model_grads divides by nothing",
    ),
)


def upstream_source(module: str) -> str:
    """Text of a megatron-core module, found without importing it or its parents."""
    root = importlib.util.find_spec("megatron.core")
    if root is None or root.origin is None:
        raise ImportError("megatron-core is not installed; run `bash run.sh` once, it makes the environment")
    path = Path(root.origin).parent / module.removeprefix("megatron.core.").replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def check(source: Callable[[str], str] = upstream_source) -> None:
    """Compare every patch with megatron-core's source, changing nothing.

    Raises ImportError naming the first patch that does not match. `source` gives the text of a module.
    """
    version = importlib.metadata.version("megatron-core")
    if version != PINNED:
        raise ImportError(f"megatron-core {version} is installed, the patches are for {PINNED} (requirements/)")
    for replacement in REPLACEMENTS:
        for module, piece in replacement.pieces():
            if piece not in source(module):
                raise ImportError(
                    f"patch {replacement.name}: {module} no longer holds {piece.strip()!r}; this megatron-core is not the "
                    "pinned one (requirements/), reinstall it"
                )
    if needs_cpu():
        for module in hook.patched_modules():
            hook.rewrite(source(module), module)


def needs_cpu() -> bool:
    return not torch.cuda.is_available()


def install() -> None:
    """Check every patch, then put the import hook in place where there is no CUDA. Idempotent."""
    # Upstream says at every import and checkpoint which extensions are missing and which torch calls are deprecated, on
    # every rank; none of it is for the person who runs a stage.
    for origin in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=origin)
    check()
    if needs_cpu():
        hook.install()


def line_of(replacement: Replacement) -> int:
    """Number of the installed line that is the reason for the replacement."""
    text = upstream_source(replacement.module)
    return text[: text.index(replacement.expects[0])].count("\n") + 1


def report() -> list[dict[str, str]]:
    """One row a patch: name, upstream (file and line of the installed source), version, reason, status."""
    rows = [
        {
            "name": r.name,
            "upstream": f"{r.module.replace('.', '/')}.py:{line_of(r)}",
            "version": PINNED,
            "reason": r.reason,
            "status": f"replaced by {r.ours}",
        }
        for r in REPLACEMENTS
    ]
    status = "applied" if needs_cpu() else "not needed: CUDA is here"
    for module in hook.patched_modules():
        lines = upstream_source(module).splitlines()
        spellings = [s for idiom in IDIOM_COUNTS.get(module, {}) for s in idiom.spellings]
        spellings += [line.before.strip("\n") for line in LINES.get(module, ())]
        hits = [str(n) for n, text in enumerate(lines, 1) if any(s in text for s in spellings)]
        reasons = sorted({line.reason for line in LINES.get(module, ()) if not line.reason.startswith("as ")})
        rows.append(
            {
                "name": f"cpu/{module.removeprefix('megatron.core.')}",
                "upstream": f"{module.replace('.', '/')}.py:{','.join(hits)}",
                "version": PINNED,
                "reason": "; ".join(
                    ["names the CUDA device instead of the tensor's"] * bool(IDIOM_COUNTS.get(module)) + reasons
                ),
                "status": status,
            }
        )
    return rows
